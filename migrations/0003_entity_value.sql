-- +goose Up

-- Incidents are searched by an entity's value alone, whatever its type.
CREATE INDEX finding_entity_bare_value ON finding_entity (tenant, value);
