-- +goose Up

-- Layouts succeed one another. One is in force; one that is being prepared is put
-- into force whole, in one transaction, or never.
ALTER TABLE layout
    ADD COLUMN topic text NOT NULL DEFAULT 'vedette.observations',
    ADD COLUMN state text NOT NULL DEFAULT 'in_force' CHECK (state IN ('preparing', 'in_force', 'retired', 'abandoned'));
CREATE UNIQUE INDEX layout_in_force ON layout (state) WHERE state = 'in_force';
CREATE UNIQUE INDEX layout_topic ON layout (topic);

-- From where on of each source a layout counts: what lies below was found in the
-- layout before.
CREATE TABLE layout_switch (
    layout        integer NOT NULL REFERENCES layout,
    incarnation   integer NOT NULL,
    partition     integer NOT NULL,
    switch_offset bigint NOT NULL CHECK (switch_offset >= 0),
    PRIMARY KEY (layout, incarnation, partition)
);

-- The lives of a partition of vedette.logs after the first: a topic that was
-- replaced or truncated is another log from some offset on.
CREATE TABLE source_incarnation (
    partition    integer NOT NULL CHECK (partition >= 0),
    incarnation  integer NOT NULL CHECK (incarnation > 0),
    first_offset bigint NOT NULL CHECK (first_offset >= 0), -- where reading begins
    generation   text NOT NULL DEFAULT '',                       -- in force there
    state        bytea NOT NULL DEFAULT '',                      -- match's, there
    reason       text NOT NULL DEFAULT '',
    opened_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, incarnation)
);

-- The last message before a checkpoint's position, by which the topic is known again.
ALTER TABLE checkpoint
    ADD COLUMN last_end bigint NOT NULL DEFAULT 0 CHECK (last_end >= 0), -- its offset + 1; 0: none
    ADD COLUMN last_crc bigint NOT NULL DEFAULT 0;
