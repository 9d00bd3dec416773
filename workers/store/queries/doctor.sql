-- server_facts --
-- What durability and capacity rest on. The clock is read as the statement runs.
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer AS connections_max,
       extract(epoch FROM clock_timestamp())::float8 AS now_s,
       pg_is_in_recovery() AS read_only

-- roles_missing --
-- Which of our roles do not exist, or may not be taken on by this login.
SELECT wanted.name
FROM unnest(%(roles)s::text[]) AS wanted(name)
LEFT JOIN pg_roles ON pg_roles.rolname = wanted.name
WHERE pg_roles.oid IS NULL OR NOT pg_has_role(current_user, pg_roles.oid, 'MEMBER')
ORDER BY wanted.name
