-- name: InsertLayout :exec
INSERT INTO layout (id, observation_partitions, source_partitions)
VALUES (@id, @observation_partitions, @source_partitions)
ON CONFLICT (id) DO NOTHING;

-- name: GetLayout :one
SELECT observation_partitions, source_partitions FROM layout WHERE id = @id;
