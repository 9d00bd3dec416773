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

-- login_name --
SELECT quote_ident(current_user)

-- roles_missing --
-- Which of our roles may not be taken on by this login, and whether they are there at all.
SELECT wanted.name, pg_roles.oid IS NOT NULL
FROM unnest(%(roles)s::text[]) AS wanted(name)
LEFT JOIN pg_roles ON pg_roles.rolname = wanted.name
WHERE pg_roles.oid IS NULL OR NOT pg_has_role(current_user, pg_roles.oid, %(privilege)s)
ORDER BY wanted.name

-- logins_without --
-- Other logins that may take on all of these roles, but not one more. Where that is not there, none.
SELECT quote_ident(login.rolname)
FROM pg_roles login JOIN pg_roles one_more ON one_more.rolname = %(one_more)s
WHERE login.rolcanlogin AND login.rolname <> current_user
  AND NOT pg_has_role(login.oid, one_more.oid, %(privilege)s)
  AND %(roles)s::name[] <@ ARRAY(
      SELECT rolname FROM pg_roles r
      WHERE rolname = ANY(%(roles)s::name[]) AND pg_has_role(login.oid, r.oid, %(privilege)s))
ORDER BY 1
