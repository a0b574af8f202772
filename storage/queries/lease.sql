-- name: HoldLease :execrows
INSERT INTO lease AS l (name, holder, expires_at)
VALUES (@name, @holder, now() + make_interval(secs => @seconds))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.holder = excluded.holder OR l.expires_at < now();

-- name: ReleaseLease :exec
DELETE FROM lease WHERE name = @name AND holder = @holder;
