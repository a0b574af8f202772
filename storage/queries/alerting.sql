-- name: DueIntents :many
SELECT tenant, incident_id, receiver FROM intent
WHERE receiver = ANY (@receivers::text[]) AND queued < wanted AND job IS NULL
ORDER BY updated_at
LIMIT @max_rows::bigint
FOR UPDATE SKIP LOCKED;

-- name: IntentsQueued :exec
UPDATE intent i SET queued = i.wanted, job = p.job, failing_since = NULL
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@incident_ids::uuid[]) AS incident_id, unnest(@receivers::text[]) AS receiver, unnest(@jobs::bigint[]) AS job) AS p
WHERE i.tenant = p.tenant AND i.incident_id = p.incident_id AND i.receiver = p.receiver;

-- name: IntentToTell :one
SELECT * FROM intent WHERE tenant = @tenant AND incident_id = @incident_id AND receiver = @receiver;

-- name: IncidentToTell :one
SELECT * FROM incident WHERE tenant = @tenant AND id = @id;

-- name: IncidentEntities :many
SELECT e.type, e.value
FROM (
    SELECT g.id, g.count FROM finding g WHERE g.tenant = @tenant AND g.incident_id = @incident_id::uuid
    ORDER BY g.count DESC, g.id LIMIT 2000
) f JOIN finding_entity e ON e.tenant = @tenant AND e.finding_id = f.id
GROUP BY e.type, e.value
ORDER BY count(*) DESC, sum(f.count) DESC, e.type, e.value
LIMIT @max_rows::bigint;

-- name: IncidentRules :many
SELECT version, rule_id, title, level, author, license, description, rule_references, tags, false_positives, group_by, summary
FROM rule_version
WHERE version IN (SELECT f.rule_version FROM finding f WHERE f.tenant = @tenant AND f.incident_id = @incident_id::uuid)
ORDER BY level DESC, rule_id, version;

-- What an incident is named for: of its findings that could be judged the most severe, then the earliest.
-- name: LeadFinding :one
SELECT f.tenant, f.id, f.rule_version, f.key, f.tile, f.merge, f.count, f.peak, f.first_time, f.last_time, f.detail, f.verdict
FROM finding f LEFT JOIN rule_version r ON r.version = f.rule_version
WHERE f.tenant = @tenant AND f.incident_id = @incident_id::uuid
ORDER BY (f.verdict = 'unknown'), r.level DESC NULLS LAST, f.first_time, f.id
LIMIT 1;

-- name: AttemptIntent :execrows
UPDATE intent SET attempts = attempts + 1
WHERE tenant = @tenant AND incident_id = @incident_id AND receiver = @receiver AND job = @job::bigint;

-- name: IntentDelivered :exec
UPDATE intent SET
    delivered = greatest(delivered, @version::bigint), queued = least(wanted, greatest(delivered, @version::bigint)), job = NULL,
    attempts = 0, failing_since = NULL, given_up = false, last_error = '', waiting_since = now(),
    last_event = CASE WHEN @silent::boolean THEN last_event ELSE @event::text END,
    last_severity = CASE WHEN @silent::boolean THEN last_severity ELSE @severity::smallint END,
    last_at = CASE WHEN @silent::boolean THEN last_at ELSE @at::timestamptz END
WHERE tenant = @tenant AND incident_id = @incident_id AND receiver = @receiver AND job = @job::bigint;

-- name: IntentFailed :exec
UPDATE intent SET
    last_error = @last_error, failing_since = coalesce(failing_since, @at::timestamptz),
    job = CASE WHEN @give_up::boolean THEN NULL ELSE job END,
    given_up = @give_up::boolean
WHERE tenant = @tenant AND incident_id = @incident_id AND receiver = @receiver AND job = @job::bigint;

-- name: IntentBacklog :many
SELECT receiver, min(waiting_since)::timestamptz AS since FROM intent
WHERE delivered < wanted AND NOT given_up
GROUP BY receiver;
