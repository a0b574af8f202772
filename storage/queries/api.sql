-- name: CountIncidents :many
SELECT status, count(*) AS n FROM incident WHERE tenant = @tenant GROUP BY status;

-- name: ShowIncident :one
SELECT status, CAST(coalesce(CAST(merged_into AS text), '') AS text) AS merged_into, rule_id, rule_ids, title, severity, account, tags,
    count, findings, keys, first_seen, last_seen, assignee, version, opened_at, updated_at, acknowledged_at, resolved_at
FROM incident
WHERE tenant = @tenant AND id = CAST(@id::text AS uuid);

-- The most frequent entities of each incident: in the most findings, then events; of a
-- flood, those of the findings with the most events.
-- name: ShowEntities :many
SELECT CAST(incident_id AS text) AS incident_id, type, value
FROM (
    SELECT p.id AS incident_id, e.type, e.value, count(*) AS n,
        row_number() OVER (PARTITION BY p.id ORDER BY count(*) DESC, sum(f.count) DESC, e.type, e.value) AS rank
    FROM (SELECT CAST(unnest(@ids::text[]) AS uuid) AS id) p
    CROSS JOIN LATERAL (
        SELECT g.id, g.count FROM finding g WHERE g.tenant = @tenant AND g.incident_id = p.id
        ORDER BY g.count DESC, g.id LIMIT 2000
    ) f
    JOIN finding_entity e ON e.tenant = @tenant AND e.finding_id = f.id
    GROUP BY p.id, e.type, e.value
) ranked
WHERE rank <= @top::bigint
ORDER BY incident_id, rank;

-- name: CountFindings :one
SELECT count(*) FROM finding WHERE tenant = @tenant AND incident_id = CAST(@id::text AS uuid);

-- name: ShowFindings :many
SELECT f.id, f.key, f.count, f.late, f.peak, f.first_time, f.last_time, f.detail, f.verdict,
    coalesce(r.rule_id, f.rule_version)::text AS rule_id, coalesce(r.title, '')::text AS title, coalesce(r.level, 2)::smallint AS level,
    coalesce(r.author, '')::text AS author, coalesce(r.license, '')::text AS license, coalesce(r.description, '')::text AS description,
    coalesce(r.rule_references, '{}')::text[] AS rule_references, coalesce(r.tags, '{}')::text[] AS tags,
    coalesce(r.false_positives, '{}')::text[] AS false_positives, coalesce(r.group_by, '{}')::text[] AS group_by,
    coalesce(r.summary, '')::text AS summary
FROM finding f
LEFT JOIN rule_version r ON r.version = f.rule_version
WHERE f.tenant = @tenant AND f.incident_id = CAST(@id::text AS uuid)
ORDER BY f.first_time, f.id
LIMIT @top;

-- The first records of every finding come before the second ones of any.
-- name: ShowEvidence :many
SELECT finding_id, incarnation, partition, record_offset, event_time, state, log_type, event_uid,
    CAST(length(raw) AS bigint) AS size, substring(raw FROM 1 FOR @most::integer)::bytea AS raw
FROM (
    SELECT v.*, row_number() OVER (PARTITION BY v.finding_id ORDER BY v.event_time, v.record_offset) AS rank
    FROM finding f
    JOIN evidence_record v ON v.tenant = f.tenant AND v.finding_id = f.id
    WHERE f.tenant = @tenant AND f.incident_id = CAST(@id::text AS uuid)
) ranked
ORDER BY rank, event_time, finding_id
LIMIT @top;

-- name: ShowAudit :many
SELECT at, actor, action, detail FROM incident_audit
WHERE tenant = @tenant AND incident_id = CAST(@id::text AS uuid)
ORDER BY seq DESC
LIMIT @top;
