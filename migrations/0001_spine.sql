-- +goose Up

-- A layout fixes the partition count of vedette.observations.
CREATE TABLE layout (
    id                     integer PRIMARY KEY CHECK (id > 0),
    observation_partitions integer NOT NULL CHECK (observation_partitions > 0),
    source_partitions      integer NOT NULL CHECK (source_partitions > 0),
    created_at             timestamptz NOT NULL DEFAULT now()
);

-- Generations: the rules and the enrichment that match ran with, by digest.
CREATE TABLE generation (
    digest     text PRIMARY KEY CHECK (digest <> ''),
    seq        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    content    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What a rule version said when it was in force: findings refer to it for ever.
CREATE TABLE rule_version (
    version     text PRIMARY KEY CHECK (version <> ''),
    rule_id     text NOT NULL,
    title       text NOT NULL,
    level       smallint NOT NULL CHECK (level BETWEEN 0 AND 4),
    author      text NOT NULL DEFAULT '',
    license     text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    rule_references text[] NOT NULL DEFAULT '{}',
    tags        text[] NOT NULL DEFAULT '{}',
    false_positives text[] NOT NULL DEFAULT '{}',
    group_by    text[] NOT NULL DEFAULT '{}', -- names of the key's values, in order
    summary     text NOT NULL DEFAULT '',     -- what it takes to fire, in words
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Match: how far each source has been read, fenced by epoch.
CREATE TABLE source_position (
    incarnation integer NOT NULL,
    partition   integer NOT NULL,
    epoch       bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    next        bigint CHECK (next >= 0), -- NULL until first saved
    generation  text NOT NULL DEFAULT '',
    state       bytea NOT NULL DEFAULT '',
    saved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation, partition)
);

-- Correlate: one row a partition of vedette.observations; a checkpoint locks it first.
CREATE TABLE checkpoint (
    layout    integer NOT NULL DEFAULT 1 REFERENCES layout,
    partition integer NOT NULL CHECK (partition >= 0),
    epoch     bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    number    bigint NOT NULL DEFAULT 0 CHECK (number >= 0), -- counts commits; findings carry it
    position  bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    clock     bigint NOT NULL DEFAULT 0,
    state     bytea NOT NULL DEFAULT '',
    saved_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (layout, partition)
);

CREATE TABLE mark (
    layout    integer NOT NULL DEFAULT 1,
    partition integer NOT NULL,
    position  bigint NOT NULL CHECK (position >= 0),
    clock     bigint NOT NULL,
    state     bytea NOT NULL,
    PRIMARY KEY (layout, partition, position),
    FOREIGN KEY (layout, partition) REFERENCES checkpoint
);

CREATE TABLE profile (
    layout       integer NOT NULL DEFAULT 1,
    partition    integer NOT NULL,
    rule_version text NOT NULL,
    page         bigint NOT NULL CHECK (page >= 0),
    data         bytea NOT NULL,
    PRIMARY KEY (layout, partition, rule_version, page),
    FOREIGN KEY (layout, partition) REFERENCES checkpoint
);

-- Findings. (partition, number) is the checkpoint that last changed the row: the
-- assembler reads by it, never by a serial id.
CREATE TABLE finding (
    tenant       text NOT NULL CHECK (tenant <> ''),
    id           bytea NOT NULL CHECK (length(id) = 16),
    rule_version text NOT NULL,
    key          bytea NOT NULL,
    tile         bigint NOT NULL, -- ns
    merge        smallint NOT NULL DEFAULT 0 CHECK (merge IN (0, 1)),
    count        bigint NOT NULL CHECK (count >= 0),
    peak         double precision NOT NULL,
    first_time   bigint NOT NULL, -- ns
    last_time    bigint NOT NULL, -- ns
    detail       text NOT NULL DEFAULT '',
    verdict      text NOT NULL DEFAULT '',
    evidence     bytea NOT NULL DEFAULT '', -- encoded by storage: pointers, least first
    layout       integer NOT NULL DEFAULT 1,
    partition    integer NOT NULL,
    number       bigint NOT NULL,
    incident_id  uuid, -- set by the assembler
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    CHECK (first_time <= last_time)
);
CREATE INDEX finding_changed ON finding (layout, partition, number);
CREATE INDEX finding_incident ON finding (tenant, incident_id) WHERE incident_id IS NOT NULL;

-- Incidents.
CREATE TABLE incident (
    tenant          text NOT NULL CHECK (tenant <> ''),
    id              uuid NOT NULL,
    status          text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'resolved', 'merged')),
    merged_into     uuid,
    opener          bytea NOT NULL,       -- finding with the least (first_time, id)
    rule_id         text NOT NULL,        -- the opener's
    rule_ids        text[] NOT NULL,
    title           text NOT NULL,
    severity        smallint NOT NULL CHECK (severity BETWEEN 0 AND 4),
    account         text NOT NULL DEFAULT '',
    tags            text[] NOT NULL DEFAULT '{}', -- MITRE ATT&CK, as Sigma writes them
    count           bigint NOT NULL DEFAULT 0,
    first_seen      bigint NOT NULL, -- ns
    last_seen       bigint NOT NULL, -- ns
    assignee        text NOT NULL DEFAULT '',
    version         bigint NOT NULL DEFAULT 1,    -- rises with every change worth telling
    opened_at       timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    resolved_at     timestamptz,
    PRIMARY KEY (tenant, id),
    CHECK ((status = 'merged') = (merged_into IS NOT NULL)),
    CHECK (first_seen <= last_seen)
);
CREATE INDEX incident_list ON incident (tenant, opened_at DESC, id DESC);
CREATE INDEX incident_status ON incident (tenant, status, opened_at DESC, id DESC);

-- Entities of a finding, by OCSF attribute: what incidents are joined and searched by.
CREATE TABLE finding_entity (
    tenant      text NOT NULL,
    finding_id  bytea NOT NULL,
    type        text NOT NULL, -- src_endpoint.ip, actor.user.uid, function.name, …
    value       text NOT NULL,
    PRIMARY KEY (tenant, finding_id, type, value),
    FOREIGN KEY (tenant, finding_id) REFERENCES finding ON DELETE CASCADE
);
CREATE INDEX finding_entity_value ON finding_entity (tenant, type, value);

-- The first records of a finding, copied while the log still holds them.
CREATE TABLE evidence_record (
    tenant      text NOT NULL,
    finding_id  bytea NOT NULL,
    incarnation integer NOT NULL,
    partition   integer NOT NULL,
    record_offset bigint NOT NULL,
    event_time  bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('copied', 'mismatch', 'expired')),
    log_type    text NOT NULL DEFAULT '',
    event_uid   text NOT NULL DEFAULT '',
    raw         bytea NOT NULL DEFAULT '',
    copied_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, finding_id, incarnation, partition, record_offset),
    FOREIGN KEY (tenant, finding_id) REFERENCES finding ON DELETE CASCADE
);

-- What happened to an incident, by whom: never changed, never deleted.
CREATE TABLE incident_audit (
    tenant      text NOT NULL,
    incident_id uuid NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL, -- 'assembler' or the token's name
    action      text NOT NULL, -- opened, amended, merged, acknowledged, resolved, reopened, assigned
    detail      jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, incident_id, seq),
    FOREIGN KEY (tenant, incident_id) REFERENCES incident
);

-- A notification intent: tell this receiver of this incident at (at least) this version.
CREATE TABLE intent (
    tenant      text NOT NULL,
    incident_id uuid NOT NULL,
    receiver    text NOT NULL,
    event       text NOT NULL CHECK (event IN ('trigger', 'resolve')),
    wanted      bigint NOT NULL,           -- incident version wanted
    queued      bigint NOT NULL DEFAULT 0, -- version for which a job was queued
    delivered   bigint NOT NULL DEFAULT 0, -- version the receiver last accepted
    last_error  text NOT NULL DEFAULT '',
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, incident_id, receiver),
    FOREIGN KEY (tenant, incident_id) REFERENCES incident
);
CREATE INDEX intent_due ON intent (tenant) WHERE queued < wanted;

-- The assembler: how far it has read each partition's checkpoints, fenced by epoch.
CREATE TABLE assembler (
    tenant_shard integer PRIMARY KEY CHECK (tenant_shard >= 0),
    epoch        bigint NOT NULL DEFAULT 0
);
CREATE TABLE assembler_cursor (
    tenant_shard integer NOT NULL REFERENCES assembler,
    layout       integer NOT NULL,
    partition    integer NOT NULL,
    number       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_shard, layout, partition)
);

-- Collectors: where each has got to.
CREATE TABLE collector_cursor (
    origin     text PRIMARY KEY,
    cursor     bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- API tokens; only a hash is kept.
CREATE TABLE api_token (
    id         uuid PRIMARY KEY,
    tenant     text NOT NULL,
    name       text NOT NULL,
    hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes     text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['ingest', 'read', 'write']),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    UNIQUE (tenant, name)
);
