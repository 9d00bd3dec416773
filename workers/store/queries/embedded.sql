-- database_names --
-- Which databases an embedded server holds.
SELECT datname FROM pg_database

-- database_create --
-- The one database of an embedded cluster.
CREATE DATABASE tidegate

-- statistics_extension_create --
-- What each statement costs, in pg_stat_statements.
CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA public
