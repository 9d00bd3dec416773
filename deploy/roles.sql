-- The login of Tidegate's processes, for psql, before `tidegate migrate`; run again, it changes the
-- password. To be run by the owner of the database (who needs CREATEROLE), or by a superuser:
--     APP_PASSWORD_FILE=/path/to/password psql --file deploy/roles.sql OWNER_DSN
-- The login may do nothing by itself (NOINHERIT): each connection takes one of four roles, and may do
-- what that process has to do. It owns nothing, so it can neither alter a table nor its history.
\set ON_ERROR_STOP on
\set app_password `cat "$APP_PASSWORD_FILE"`

SELECT format('CREATE ROLE %I NOLOGIN', name)
FROM unnest(ARRAY['tidegate_producer', 'tidegate_worker', 'tidegate_auditor', 'tidegate_operator']) AS wanted(name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

-- Since PostgreSQL 16 who makes a role may grant it, but not yet take it on.
GRANT tidegate_producer, tidegate_worker, tidegate_auditor, tidegate_operator TO CURRENT_USER;

SELECT 'CREATE ROLE tidegate_app LOGIN NOINHERIT'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidegate_app')
\gexec
ALTER ROLE tidegate_app PASSWORD :'app_password';
GRANT tidegate_producer, tidegate_worker, tidegate_auditor, tidegate_operator TO tidegate_app;
