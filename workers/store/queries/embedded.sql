-- database_names --
-- Which databases an embedded server holds.
SELECT datname FROM pg_database

-- database_create --
-- The one database of an embedded cluster.
CREATE DATABASE tidegate

-- statistics_extension_create --
-- What each statement costs, in pg_stat_statements.
CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA public

-- gateway_ensure --
-- The one gateway of an embedded cluster and its key, which a restart on the same data keeps.
WITH gateway AS (
    INSERT INTO gateways (gateway_id, scopes) VALUES (%(gateway_id)s, %(scopes)s)
    ON CONFLICT (gateway_id) DO UPDATE SET scopes = excluded.scopes
    RETURNING gateway_id
)
INSERT INTO gateway_keys (key_id, gateway_id, key_hash)
SELECT %(key_id)s, gateway_id, %(key_hash)s FROM gateway
ON CONFLICT (key_id) DO UPDATE SET key_hash = excluded.key_hash
