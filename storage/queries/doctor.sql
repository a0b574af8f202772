-- name: SourcePositions :many
SELECT DISTINCT ON (partition) partition, next FROM source_position ORDER BY partition, incarnation DESC;
