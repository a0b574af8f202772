-- name: GetCursor :one
SELECT cursor FROM collector_cursor WHERE origin = @origin;

-- name: SaveCursor :exec
INSERT INTO collector_cursor (origin, cursor) VALUES (@origin, @cursor)
ON CONFLICT (origin) DO UPDATE SET cursor = excluded.cursor, updated_at = now();
