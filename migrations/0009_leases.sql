-- +goose Up

-- What only one process is to do at a time, by name: whoever holds the lease does it,
-- the others stand by. It keeps them out of each other's way; that nothing is done
-- twice is the business of epochs and ids.
CREATE TABLE lease (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL
);
