-- name: InsertLayout :exec
-- The first; what comes after is planned.
INSERT INTO layout (id, observation_partitions, source_partitions)
SELECT @id::integer, @observation_partitions::integer, @source_partitions::integer
WHERE NOT EXISTS (SELECT FROM layout)
ON CONFLICT (id) DO NOTHING;

-- name: LayoutInForce :one
SELECT id, observation_partitions, source_partitions, topic,
    greatest(source_partitions, (SELECT max(partition) + 1 FROM source_position))::integer AS sources
FROM layout WHERE state = 'in_force';

-- name: LockLayout :one
-- Whoever takes something over in a layout keeps it from being retired meanwhile.
SELECT state FROM layout WHERE id = @id FOR SHARE;

-- name: AbandonLayouts :many
UPDATE layout SET state = 'abandoned' WHERE state = 'preparing' RETURNING topic;

-- name: PlanLayout :one
INSERT INTO layout (id, observation_partitions, source_partitions, topic, state)
SELECT max(id) + 1, @observation_partitions::integer, @source_partitions::integer, @prefix::text || (max(id) + 1)::text, 'preparing' FROM layout
RETURNING id, topic;

-- name: SetLayoutState :execrows
UPDATE layout SET state = @state WHERE id = @id AND state = @expected;

-- name: SaveSwitch :exec
INSERT INTO layout_switch (layout, incarnation, partition, switch_offset)
SELECT @layout::integer, unnest(@incarnations::integer[]), unnest(@partitions::integer[]), unnest(@offsets::bigint[]);

-- name: LockSources :many
SELECT incarnation, partition, epoch, next FROM source_position ORDER BY incarnation, partition FOR UPDATE;

-- name: FenceSources :exec
UPDATE source_position SET epoch = epoch + 1;

-- name: LockCheckpoints :many
SELECT partition, epoch, number FROM checkpoint WHERE layout = @layout ORDER BY partition FOR UPDATE;

-- name: FenceCheckpoints :exec
UPDATE checkpoint SET epoch = epoch + 1 WHERE layout = @layout;

-- name: InsertCheckpoint :exec
INSERT INTO checkpoint (layout, partition, number, position, clock, state, last_end, last_crc)
VALUES (@layout, @partition, @number, @position, @clock, @state, @last_end, @last_crc);

-- name: DropLayoutMarks :exec
DELETE FROM mark WHERE layout = @layout;

-- name: DropLayoutProfiles :exec
DELETE FROM profile WHERE layout = @layout;

-- name: SourceIncarnation :one
SELECT incarnation, first_offset, generation, state FROM source_incarnation WHERE partition = @partition ORDER BY incarnation DESC LIMIT 1;

-- name: OpenIncarnation :exec
INSERT INTO source_incarnation (partition, incarnation, first_offset, generation, state, reason)
VALUES (@partition, @incarnation, @first_offset, @generation, @state, @reason);

-- name: FenceSource :execrows
UPDATE source_position SET epoch = epoch + 1 WHERE incarnation = @incarnation AND partition = @partition AND epoch = @epoch;

-- name: SourcePosition :one
SELECT epoch, next, generation, state, clock, first_generation FROM source_position WHERE incarnation = @incarnation AND partition = @partition;
