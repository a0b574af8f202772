-- name: AcquireAssembler :one
INSERT INTO assembler AS a (tenant_shard, epoch) VALUES (@tenant_shard, 1)
ON CONFLICT (tenant_shard) DO UPDATE SET epoch = a.epoch + 1
RETURNING epoch;

-- name: LockAssembler :one
SELECT epoch FROM assembler WHERE tenant_shard = @tenant_shard FOR UPDATE;

-- Findings changed beyond the cursors, whole checkpoints only (ties in number come
-- along), each partition its share.
-- name: ChangedFindings :many
SELECT c.layout, c.partition, f.tenant, f.id, f.rule_version, f.key, f.tile, f.merge, f.count, f.peak, f.first_time, f.last_time,
    f.detail, f.verdict, f.number, f.incident_id
FROM checkpoint c
LEFT JOIN assembler_cursor a ON a.tenant_shard = @tenant_shard AND a.layout = c.layout AND a.partition = c.partition
CROSS JOIN LATERAL (
    SELECT tenant, id, rule_version, key, tile, merge, count, peak, first_time, last_time, detail, verdict, number, incident_id
    FROM finding WHERE layout = c.layout AND partition = c.partition AND number > coalesce(a.number, 0)
    ORDER BY number
    FETCH FIRST (@max_rows::bigint) ROWS WITH TIES
) f
WHERE c.number > coalesce(a.number, 0);

-- name: ChangedEvidence :many
SELECT c.layout, c.partition, f.tenant, f.id, f.evidence, f.number
FROM checkpoint c
LEFT JOIN evidence_cursor a ON a.tenant_shard = @tenant_shard AND a.layout = c.layout AND a.partition = c.partition
CROSS JOIN LATERAL (
    SELECT tenant, id, evidence, number
    FROM finding WHERE layout = c.layout AND partition = c.partition AND number > coalesce(a.number, 0)
    ORDER BY number
    FETCH FIRST (@max_rows::bigint) ROWS WITH TIES
) f
WHERE c.number > coalesce(a.number, 0);

-- name: SaveAssemblerCursor :exec
INSERT INTO assembler_cursor (tenant_shard, layout, partition, number)
VALUES (@tenant_shard, @layout, @partition, @number)
ON CONFLICT (tenant_shard, layout, partition) DO UPDATE SET number = excluded.number;

-- name: SaveEvidenceCursor :exec
INSERT INTO evidence_cursor AS c (tenant_shard, layout, partition, number)
VALUES (@tenant_shard, @layout, @partition, @number)
ON CONFLICT (tenant_shard, layout, partition) DO UPDATE SET number = greatest(c.number, excluded.number);

-- name: RuleVersions :many
SELECT version, rule_id, title, level, author, license, description, rule_references, tags, false_positives, group_by, summary
FROM rule_version WHERE version = ANY (@versions::text[]);

-- name: RulesSeen :many
SELECT e.type, e.value, e.day, e.rule_id
FROM (SELECT unnest(@types::text[]) AS type, unnest(@values::text[]) AS value, unnest(@days::integer[]) AS day) AS p
JOIN entity_day e ON e.tenant = @tenant AND e.type = p.type AND e.value = p.value AND e.day = p.day;

-- name: AddRulesSeen :exec
INSERT INTO entity_day (tenant, type, value, day, rule_id)
SELECT @tenant::text, p.type, p.value, p.day, p.rule_id
FROM (SELECT unnest(@types::text[]) AS type, unnest(@values::text[]) AS value, unnest(@days::integer[]) AS day, unnest(@rule_ids::text[]) AS rule_id) AS p
ON CONFLICT DO NOTHING;

-- name: FindingEntities :many
SELECT finding_id, type, value FROM finding_entity
WHERE tenant = @tenant AND finding_id = ANY (@finding_ids::bytea[])
ORDER BY finding_id, type, value;

-- name: AddEntities :exec
INSERT INTO finding_entity (tenant, finding_id, type, value)
SELECT @tenant::text, p.finding_id, p.type, p.value
FROM (SELECT unnest(@finding_ids::bytea[]) AS finding_id, unnest(@types::text[]) AS type, unnest(@values::text[]) AS value) AS p
ON CONFLICT DO NOTHING;

-- name: FindingLinks :many
SELECT l.finding_id, l.link, l.kind, l.first_time, l.last_time, f.incident_id
FROM finding_link l JOIN finding f ON f.tenant = l.tenant AND f.id = l.finding_id
WHERE l.tenant = @tenant AND l.finding_id = ANY (@finding_ids::bytea[]);

-- name: IncidentLinks :many
SELECT l.finding_id, l.link, l.kind, l.first_time, l.last_time, f.incident_id
FROM finding f JOIN finding_link l ON l.tenant = f.tenant AND l.finding_id = f.id
WHERE f.tenant = @tenant AND f.incident_id = ANY (@incident_ids::uuid[]);

-- name: SaveLinks :exec
INSERT INTO finding_link (tenant, finding_id, link, kind, first_time, last_time)
SELECT @tenant::text, p.finding_id, p.link, p.kind, p.first_time, p.last_time
FROM (SELECT unnest(@finding_ids::bytea[]) AS finding_id, unnest(@links::bytea[]) AS link, unnest(@kinds::smallint[]) AS kind, unnest(@firsts::bigint[]) AS first_time, unnest(@lasts::bigint[]) AS last_time) AS p
ON CONFLICT (tenant, finding_id, link) DO UPDATE SET first_time = excluded.first_time, last_time = excluded.last_time;

-- The three kinds of probe: one finding each, by an index.
-- name: ProbeFirst :many
SELECT DISTINCT p.ord::integer AS ord, g.incident_id::uuid AS incident_id
FROM (SELECT unnest(@ords::integer[]) AS ord, unnest(@links::bytea[]) AS link, unnest(@froms::bigint[]) AS lo, unnest(@tos::bigint[]) AS hi) AS p
CROSS JOIN LATERAL (
    SELECT f.incident_id FROM finding_link l
    JOIN finding f ON f.tenant = l.tenant AND f.id = l.finding_id
    JOIN incident i ON i.tenant = f.tenant AND i.id = f.incident_id
    WHERE l.tenant = @tenant AND l.link = p.link AND l.first_time >= p.lo AND l.first_time <= p.hi
      AND NOT coalesce(i.resolved_at < @closed, false)
    ORDER BY l.first_time LIMIT 1
) g;

-- name: ProbeLast :many
SELECT DISTINCT p.ord::integer AS ord, g.incident_id::uuid AS incident_id
FROM (SELECT unnest(@ords::integer[]) AS ord, unnest(@links::bytea[]) AS link, unnest(@froms::bigint[]) AS lo, unnest(@tos::bigint[]) AS hi) AS p
CROSS JOIN LATERAL (
    SELECT f.incident_id FROM finding_link l
    JOIN finding f ON f.tenant = l.tenant AND f.id = l.finding_id
    JOIN incident i ON i.tenant = f.tenant AND i.id = f.incident_id
    WHERE l.tenant = @tenant AND l.link = p.link AND l.last_time >= p.lo AND l.last_time <= p.hi
      AND NOT coalesce(i.resolved_at < @closed, false)
    ORDER BY l.last_time LIMIT 1
) g;

-- name: ProbeSpanning :many
SELECT DISTINCT p.ord::integer AS ord, g.incident_id::uuid AS incident_id
FROM (SELECT unnest(@ords::integer[]) AS ord, unnest(@links::bytea[]) AS link, unnest(@froms::bigint[]) AS lo, unnest(@tos::bigint[]) AS hi) AS p
CROSS JOIN LATERAL (
    SELECT f.incident_id FROM finding_link l
    JOIN finding f ON f.tenant = l.tenant AND f.id = l.finding_id
    JOIN incident i ON i.tenant = f.tenant AND i.id = f.incident_id
    WHERE l.tenant = @tenant AND l.link = p.link AND l.last_time > p.hi AND l.first_time < p.lo
      AND NOT coalesce(i.resolved_at < @closed, false)
    ORDER BY l.last_time LIMIT 1
) g;

-- name: LockIncidents :many
SELECT * FROM incident WHERE tenant = @tenant AND id = ANY (@ids::uuid[]) ORDER BY id FOR UPDATE;

-- The type is compared by its text alone so that no plan, least of all one made
-- before the table has statistics, goes through all findings of an account.
-- name: IncidentTotals :many
SELECT f.incident_id::uuid AS incident_id, f.rule_version, (f.verdict = 'unknown')::boolean AS unknown,
    count(*) AS findings, sum(f.count)::bigint AS count,
    min(f.first_time)::bigint AS first_time, max(f.last_time)::bigint AS last_time,
    (array_agg(f.id ORDER BY f.first_time, f.id))[1]::bytea AS opener,
    coalesce(min(e.value), '')::text AS account
FROM finding f
LEFT JOIN finding_entity e ON e.tenant = f.tenant AND e.finding_id = f.id AND e.type || '' = 'cloud.account.uid'
WHERE f.tenant = @tenant AND f.incident_id = ANY (@incident_ids::uuid[])
GROUP BY f.incident_id, f.rule_version, (f.verdict = 'unknown');

-- name: SaveIncident :batchexec
INSERT INTO incident (tenant, id, status, merged_into, opener, rule_id, rule_ids, title, severity, account, tags, count, findings, keys,
    first_seen, last_seen, assignee, version, opened_at, updated_at, acknowledged_at, resolved_at)
VALUES (@tenant, @id, @status, @merged_into, @opener, @rule_id, @rule_ids, @title, @severity, @account, @tags, @count, @findings, @keys,
    @first_seen, @last_seen, @assignee, @version, @opened_at, @updated_at, @acknowledged_at, @resolved_at)
ON CONFLICT (tenant, id) DO UPDATE SET
    status = excluded.status, merged_into = excluded.merged_into, opener = excluded.opener,
    rule_id = excluded.rule_id, rule_ids = excluded.rule_ids, title = excluded.title, severity = excluded.severity,
    account = excluded.account, tags = excluded.tags, count = excluded.count, findings = excluded.findings, keys = excluded.keys,
    first_seen = excluded.first_seen, last_seen = excluded.last_seen, assignee = excluded.assignee,
    version = excluded.version, updated_at = excluded.updated_at,
    acknowledged_at = excluded.acknowledged_at, resolved_at = excluded.resolved_at;

-- Findings are locked in the order of their ids, as checkpoints lock them.
-- name: LockFindingsToAssign :exec
SELECT id FROM finding WHERE tenant = @tenant AND id = ANY (@finding_ids::bytea[]) ORDER BY id FOR NO KEY UPDATE;

-- name: AssignFindings :exec
UPDATE finding f SET incident_id = p.incident_id
FROM (SELECT unnest(@finding_ids::bytea[]) AS finding_id, unnest(@incident_ids::uuid[]) AS incident_id) AS p
WHERE f.tenant = @tenant AND f.id = p.finding_id;

-- name: LockIncidentFindings :exec
SELECT id FROM finding WHERE tenant = @tenant AND incident_id = @incident_id::uuid ORDER BY id FOR NO KEY UPDATE;

-- name: MoveFindings :exec
UPDATE finding SET incident_id = @into_id::uuid WHERE tenant = @tenant AND incident_id = @from_id::uuid;

-- name: AddAudit :exec
INSERT INTO incident_audit (tenant, incident_id, at, actor, action, detail)
SELECT p.tenant, p.incident_id, p.at, p.actor, p.action, p.detail
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@incident_ids::uuid[]) AS incident_id, unnest(@ats::timestamptz[]) AS at, unnest(@actors::text[]) AS actor, unnest(@actions::text[]) AS action, unnest(@details::jsonb[]) AS detail) AS p;

-- name: WantTrigger :exec
INSERT INTO intent AS i (tenant, incident_id, receiver, event, wanted)
SELECT p.tenant, p.incident_id, p.receiver, 'trigger', p.wanted
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@incident_ids::uuid[]) AS incident_id, unnest(@receivers::text[]) AS receiver, unnest(@wanteds::bigint[]) AS wanted) AS p
ON CONFLICT (tenant, incident_id, receiver) DO UPDATE SET
    event = 'trigger', wanted = excluded.wanted, given_up = false, updated_at = now(),
    waiting_since = CASE WHEN i.delivered >= i.wanted OR i.given_up THEN now() ELSE i.waiting_since END
WHERE i.wanted < excluded.wanted;

-- name: WantResolve :exec
UPDATE intent i SET event = 'resolve', wanted = p.wanted, given_up = false, updated_at = now(),
    waiting_since = CASE WHEN i.delivered >= i.wanted OR i.given_up THEN now() ELSE i.waiting_since END
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@incident_ids::uuid[]) AS incident_id, unnest(@receivers::text[]) AS receiver, unnest(@wanteds::bigint[]) AS wanted) AS p
WHERE i.tenant = p.tenant AND i.incident_id = p.incident_id AND (p.receiver = '' OR i.receiver = p.receiver) AND i.wanted < p.wanted;

-- name: EvidenceHeld :many
SELECT v.tenant, v.finding_id, v.incarnation, v.partition, v.record_offset
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@finding_ids::bytea[]) AS finding_id) AS p
JOIN evidence_record v ON v.tenant = p.tenant AND v.finding_id = p.finding_id;

-- name: AddEvidence :batchexec
INSERT INTO evidence_record (tenant, finding_id, incarnation, partition, record_offset, event_time, state, log_type, event_uid, raw)
VALUES (@tenant, @finding_id, @incarnation, @partition, @record_offset, @event_time, @state, @log_type, @event_uid, @raw)
ON CONFLICT DO NOTHING;

-- name: DropEvidence :batchexec
DELETE FROM evidence_record
WHERE tenant = @tenant AND finding_id = @finding_id AND incarnation = @incarnation AND partition = @partition AND record_offset = @record_offset;

-- name: FindingEvidence :many
SELECT f.tenant, f.id, f.evidence
FROM (SELECT unnest(@tenants::text[]) AS tenant, unnest(@finding_ids::bytea[]) AS finding_id) AS p
JOIN finding f ON f.tenant = p.tenant AND f.id = p.finding_id;

-- name: CountCheckpoints :one
SELECT count(*) FROM checkpoint;

-- name: FindingTiles :many
SELECT finding_id, rule_id, at, key FROM finding_tile
WHERE tenant = @tenant AND finding_id = ANY (@finding_ids::bytea[]);

-- name: IncidentTiles :many
SELECT p.finding_id, p.rule_id, p.at, p.key
FROM finding f JOIN finding_tile p ON p.tenant = f.tenant AND p.finding_id = f.id
WHERE f.tenant = @tenant AND f.incident_id = ANY (@incident_ids::uuid[]);

-- name: SaveTiles :exec
INSERT INTO finding_tile (tenant, finding_id, rule_id, at, key)
SELECT @tenant::text, p.finding_id, p.rule_id, p.at, p.key
FROM (SELECT unnest(@finding_ids::bytea[]) AS finding_id, unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at, unnest(@keys::bytea[]) AS key) AS p
ON CONFLICT (tenant, finding_id) DO UPDATE SET at = excluded.at;

-- In the order of the index, so that it ends at the limit.
-- name: TileKeys :many
SELECT p.rule_id::text AS rule_id, p.at::bigint AS at, g.n
FROM (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
        SELECT DISTINCT t.key FROM finding_tile t
        WHERE t.tenant = @tenant AND t.rule_id = p.rule_id AND t.at = p.at
        ORDER BY t.key LIMIT @most::bigint
    ) k
) g;

-- name: TileIncidents :many
SELECT DISTINCT p.rule_id::text AS rule_id, p.at::bigint AS at, f.incident_id::uuid AS incident_id
FROM (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
JOIN finding_tile t ON t.tenant = @tenant AND t.rule_id = p.rule_id AND t.at = p.at
JOIN finding f ON f.tenant = t.tenant AND f.id = t.finding_id
JOIN incident i ON i.tenant = f.tenant AND i.id = f.incident_id
WHERE NOT coalesce(i.resolved_at < @closed, false);

-- name: TileIncident :many
SELECT p.rule_id::text AS rule_id, p.at::bigint AS at, g.incident_id::uuid AS incident_id
FROM (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
CROSS JOIN LATERAL (
    SELECT f.incident_id FROM finding_tile t
    JOIN finding f ON f.tenant = t.tenant AND f.id = t.finding_id
    JOIN incident i ON i.tenant = f.tenant AND i.id = f.incident_id
    WHERE t.tenant = @tenant AND t.rule_id = p.rule_id AND t.at = p.at
      AND NOT coalesce(i.resolved_at < @closed, false)
    ORDER BY t.key LIMIT 1
) g;

-- name: Floods :many
SELECT DISTINCT f.rule_id, f.at
FROM (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
JOIN flood f ON f.tenant = @tenant AND f.rule_id = p.rule_id AND f.at BETWEEN p.at - @within::bigint AND p.at + @within::bigint;

-- name: AddFloods :exec
INSERT INTO flood (tenant, rule_id, at)
SELECT @tenant::text, p.rule_id, p.at
FROM (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
ON CONFLICT DO NOTHING;

-- name: DropFloods :exec
DELETE FROM flood f
USING (SELECT unnest(@rule_ids::text[]) AS rule_id, unnest(@ats::bigint[]) AS at) AS p
WHERE f.tenant = @tenant AND f.rule_id = p.rule_id AND f.at = p.at;

-- name: IncidentKeys :many
SELECT f.incident_id::uuid AS incident_id, p.rule_id, count(DISTINCT p.key) AS keys
FROM finding f JOIN finding_tile p ON p.tenant = f.tenant AND p.finding_id = f.id
WHERE f.tenant = @tenant AND f.incident_id = ANY (@incident_ids::uuid[])
GROUP BY f.incident_id, p.rule_id;
