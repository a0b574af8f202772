-- +goose Up

-- The generation in force at the beginning of a partition of vedette.logs that was
-- added after the first start: set once, by whoever first takes it over, so that its
-- first records are judged by the same rules however often they are read. Empty: the
-- first generation ever stored.
ALTER TABLE source_position ADD COLUMN first_generation text NOT NULL DEFAULT '';
