-- +goose Up

-- How many of a finding's events came later than its rule reckons with.
ALTER TABLE finding ADD COLUMN late bigint NOT NULL DEFAULT 0;
