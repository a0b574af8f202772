-- name: AcquireSource :one
-- A partition that was added after the first start begins in the generation that
-- another source is in.
INSERT INTO source_position AS s (incarnation, partition, epoch, first_generation)
VALUES (@incarnation, @partition, 1, coalesce((
    SELECT o.generation FROM source_position o JOIN layout l ON l.state = 'in_force'
    WHERE o.generation <> '' AND o.partition < l.source_partitions AND l.source_partitions <= @partition
    ORDER BY o.saved_at DESC, o.partition LIMIT 1), ''))
ON CONFLICT (incarnation, partition) DO UPDATE SET epoch = s.epoch + 1
RETURNING epoch, next, generation, state, clock, first_generation;

-- name: SaveSource :execrows
UPDATE source_position
SET next = @next::bigint, generation = @generation, state = @state, clock = @clock::bigint, saved_at = now(),
    rewind = CASE WHEN @next::bigint <= rewind THEN NULL ELSE rewind END
WHERE incarnation = @incarnation AND partition = @partition AND epoch = @epoch;

-- name: Standings :many
SELECT DISTINCT ON (partition) partition, incarnation, epoch, next, clock, rewind
FROM source_position WHERE incarnation >= @incarnation ORDER BY partition, incarnation DESC;

-- name: AskRewind :exec
-- A source that nobody has owned yet has nothing to write again.
UPDATE source_position SET rewind = least(rewind, @next::bigint) -- NULL does not count
WHERE incarnation = @incarnation AND partition = @partition;

-- name: InsertGeneration :exec
INSERT INTO generation (digest, content) VALUES (@digest, @content) ON CONFLICT (digest) DO NOTHING;

-- name: GetGeneration :one
SELECT content FROM generation WHERE digest = @digest;

-- name: FirstGeneration :one
SELECT digest, content FROM generation ORDER BY seq LIMIT 1;

-- name: PutRuleVersion :batchexec
INSERT INTO rule_version (version, rule_id, title, level, author, license, description,
    rule_references, tags, false_positives, group_by, summary)
VALUES (@version, @rule_id, @title, @level, @author, @license, @description,
    @rule_references, @tags, @false_positives, @group_by, @summary)
ON CONFLICT (version) DO UPDATE SET -- the words may change while the meaning does not
    title = excluded.title, level = excluded.level, author = excluded.author, license = excluded.license,
    description = excluded.description, rule_references = excluded.rule_references, tags = excluded.tags,
    false_positives = excluded.false_positives, group_by = excluded.group_by, summary = excluded.summary;
