-- +goose Up

-- Where a finding counts towards a flood: with the keys of its rule in its tile.
CREATE TABLE finding_tile (
    tenant     text NOT NULL,
    finding_id bytea NOT NULL,
    rule_id    text NOT NULL,
    at         bigint NOT NULL, -- start of the tile, ns
    key        bytea NOT NULL CHECK (length(key) = 16), -- hash of rule and group key
    PRIMARY KEY (tenant, finding_id),
    FOREIGN KEY (tenant, finding_id) REFERENCES finding ON DELETE CASCADE
);
CREATE INDEX finding_tile_key ON finding_tile (tenant, rule_id, at, key);

-- The tiles that hold a flood: their findings are one incident.
CREATE TABLE flood (
    tenant  text NOT NULL,
    rule_id text NOT NULL,
    at      bigint NOT NULL, -- ns
    PRIMARY KEY (tenant, rule_id, at)
);

-- How many findings an incident has, and how many pairs of rule and key.
ALTER TABLE incident
    ADD COLUMN findings bigint NOT NULL DEFAULT 0,
    ADD COLUMN keys     bigint NOT NULL DEFAULT 0;
