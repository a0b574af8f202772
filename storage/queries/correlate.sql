-- name: AcquireCheckpoint :one
INSERT INTO checkpoint AS c (layout, partition, epoch)
VALUES (@layout, @partition, 1)
ON CONFLICT (layout, partition) DO UPDATE SET epoch = c.epoch + 1
RETURNING epoch, number, position, clock, state, last_end, last_crc;

-- name: LockCheckpoint :one
SELECT epoch, number FROM checkpoint WHERE layout = @layout AND partition = @partition FOR UPDATE;

-- name: SaveCheckpoint :exec
UPDATE checkpoint
SET number = @number, position = @position, clock = @clock, state = @state, last_end = @last_end, last_crc = @last_crc, saved_at = now()
WHERE layout = @layout AND partition = @partition;

-- name: CheckpointStates :many
SELECT partition, number, position, clock, state, last_end, last_crc FROM checkpoint WHERE layout = @layout ORDER BY partition;

-- name: Marks :many
SELECT position, clock, state FROM mark
WHERE layout = @layout AND partition = @partition
ORDER BY position;

-- name: SaveMark :exec
INSERT INTO mark (layout, partition, position, clock, state)
VALUES (@layout, @partition, @position, @clock, @state)
ON CONFLICT (layout, partition, position) DO UPDATE SET clock = excluded.clock, state = excluded.state;

-- name: DropMarks :exec
DELETE FROM mark WHERE layout = @layout AND partition = @partition AND position < @below;

-- name: Pages :many
SELECT rule_version, page, data FROM profile
WHERE layout = @layout AND partition = @partition
ORDER BY rule_version, page;

-- name: SavePages :exec
INSERT INTO profile (layout, partition, rule_version, page, data)
SELECT @layout::integer, @partition::integer,
    unnest(@rule_versions::text[]), unnest(@pages::bigint[]), unnest(@data::bytea[])
ON CONFLICT (layout, partition, rule_version, page) DO UPDATE SET data = excluded.data;

-- name: DeletePages :exec
DELETE FROM profile
WHERE layout = @layout AND partition = @partition
    AND (rule_version, page) IN (SELECT unnest(@rule_versions::text[]), unnest(@pages::bigint[]));

-- name: InsertFindings :exec
-- In the order of the primary key, so that two that insert the same wait for each other in one direction.
INSERT INTO finding (layout, partition, number, tenant, id, rule_version, key, tile, merge, count, late, peak,
    first_time, last_time, detail, verdict, evidence)
SELECT @layout::integer, @partition::integer, @number::bigint, unnest(@tenants::text[]), unnest(@ids::bytea[]),
    unnest(@rule_versions::text[]), unnest(@keys::bytea[]), unnest(@tiles::bigint[]), unnest(@merges::smallint[]),
    unnest(@counts::bigint[]), unnest(@lates::bigint[]), unnest(@peaks::double precision[]), unnest(@firsts::bigint[]), unnest(@lasts::bigint[]),
    unnest(@details::text[]), unnest(@verdicts::text[]), unnest(@evidence::bytea[])
ON CONFLICT (tenant, id) DO NOTHING;

-- name: LockFindings :many
-- Those that were there before this checkpoint, in the order of the primary key.
SELECT f.tenant, f.id, f.rule_version, f.key, f.tile, f.merge, f.count, f.late, f.peak, f.first_time, f.last_time,
    f.detail, f.verdict, f.evidence
FROM finding f
WHERE (f.tenant, f.id) IN (SELECT unnest(@tenants::text[]), unnest(@ids::bytea[]))
    AND NOT (f.layout = @layout AND f.partition = @partition AND f.number = @number)
ORDER BY f.tenant, f.id
FOR NO KEY UPDATE; -- its key stays, so rows that refer to it may be written meanwhile

-- name: UpdateFindings :exec
UPDATE finding f
SET count = d.count, late = d.late, peak = d.peak, first_time = d.first_time, last_time = d.last_time,
    detail = d.detail, verdict = d.verdict, evidence = d.evidence,
    layout = @layout, partition = @partition, number = @number, updated_at = now()
FROM (
    SELECT unnest(@tenants::text[]) AS tenant, unnest(@ids::bytea[]) AS id, unnest(@counts::bigint[]) AS count,
        unnest(@lates::bigint[]) AS late,
        unnest(@peaks::double precision[]) AS peak, unnest(@firsts::bigint[]) AS first_time,
        unnest(@lasts::bigint[]) AS last_time, unnest(@details::text[]) AS detail,
        unnest(@verdicts::text[]) AS verdict, unnest(@evidence::bytea[]) AS evidence
) d
WHERE f.tenant = d.tenant AND f.id = d.id;
