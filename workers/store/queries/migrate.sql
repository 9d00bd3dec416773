-- migrations_lock --
-- One migrator at a time; held by the session, freed with it. The number is ours alone.
SELECT pg_advisory_lock(7220260206)

-- migrations_unlock --
SELECT pg_advisory_unlock(7220260206)

-- migrations_table --
CREATE SCHEMA IF NOT EXISTS tidegate;
CREATE TABLE IF NOT EXISTS tidegate.migrations (
    version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now())

-- migrations_applied --
SELECT version, checksum FROM tidegate.migrations

-- migration_record --
INSERT INTO tidegate.migrations (version, name, checksum) VALUES (%s, %s, %s)
