-- name: TokenByHash :one
SELECT CAST(id AS text) AS id, tenant, name, scopes, created_at, revoked_at FROM api_token WHERE hash = @hash;

-- name: CreateToken :exec
INSERT INTO api_token (id, tenant, name, hash, scopes) VALUES (CAST(@id::text AS uuid), @tenant, @name, @hash, @scopes);

-- name: PutToken :exec
INSERT INTO api_token (id, tenant, name, hash, scopes) VALUES (CAST(@id::text AS uuid), @tenant, @name, @hash, @scopes)
ON CONFLICT (tenant, name) DO UPDATE
SET hash = excluded.hash, scopes = excluded.scopes, created_at = now(), revoked_at = NULL;

-- name: RevokeToken :execrows
UPDATE api_token SET revoked_at = coalesce(revoked_at, now()) WHERE tenant = @tenant AND name = @name;

-- name: ListTokens :many
SELECT CAST(id AS text) AS id, name, hash, scopes, created_at, revoked_at FROM api_token
WHERE tenant = @tenant
ORDER BY name;
