-- +goose Up

-- By what findings are joined into incidents: a hash of each joinable entity, and
-- one of rule and key, with the finding's range as it was last assembled.
CREATE TABLE finding_link (
    tenant     text NOT NULL,
    finding_id bytea NOT NULL,
    link       bytea NOT NULL CHECK (length(link) = 16),
    kind       smallint NOT NULL CHECK (kind IN (0, 1)), -- entity; rule and key
    first_time bigint NOT NULL, -- ns
    last_time  bigint NOT NULL, -- ns
    PRIMARY KEY (tenant, finding_id, link),
    FOREIGN KEY (tenant, finding_id) REFERENCES finding ON DELETE CASCADE,
    CHECK (first_time <= last_time)
);
CREATE INDEX finding_link_first ON finding_link (tenant, link, first_time);
CREATE INDEX finding_link_last ON finding_link (tenant, link, last_time);

-- Which rules found something on an entity in a day of event time: one on which
-- very many did joins no more.
CREATE TABLE entity_day (
    tenant  text NOT NULL,
    type    text NOT NULL,
    value   text NOT NULL,
    day     integer NOT NULL, -- since the Unix epoch
    rule_id text NOT NULL,
    PRIMARY KEY (tenant, type, value, day, rule_id)
);

-- The copier of evidence: how far it has read each partition's checkpoints.
CREATE TABLE evidence_cursor (
    tenant_shard integer NOT NULL REFERENCES assembler,
    layout       integer NOT NULL,
    partition    integer NOT NULL,
    number       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_shard, layout, partition)
);

-- Delivery: the one job that stands for an intent, and what was told last.
ALTER TABLE intent
    ADD COLUMN job           bigint, -- in the queue; NULL if none
    ADD COLUMN attempts      integer NOT NULL DEFAULT 0 CHECK (attempts >= 0), -- since the last delivery
    ADD COLUMN waiting_since timestamptz NOT NULL DEFAULT now(), -- oldest undelivered wish
    ADD COLUMN failing_since timestamptz, -- NULL if the last attempt did not fail
    ADD COLUMN given_up      boolean NOT NULL DEFAULT false,
    ADD COLUMN last_event    text NOT NULL DEFAULT '' CHECK (last_event IN ('', 'trigger', 'acknowledge', 'resolve')),
    ADD COLUMN last_severity smallint NOT NULL DEFAULT 0 CHECK (last_severity BETWEEN 0 AND 4),
    ADD COLUMN last_at       timestamptz; -- of the last message; NULL if there was none
DROP INDEX intent_due;
CREATE INDEX intent_due ON intent (receiver, updated_at) WHERE queued < wanted AND job IS NULL;
CREATE INDEX intent_open ON intent (receiver, waiting_since) WHERE delivered < wanted AND NOT given_up;
CREATE INDEX intent_job ON intent (job) WHERE job IS NOT NULL;
