-- +goose Up

-- Sources are shared among processes: each tells the others where it stands, and
-- correlate, which may run elsewhere, from where on it wants sections again.
ALTER TABLE source_position
    ADD COLUMN clock  bigint,                     -- append stamp it stands at, ns; NULL until saved
    ADD COLUMN rewind bigint CHECK (rewind >= 0); -- NULL: nothing is wanted
