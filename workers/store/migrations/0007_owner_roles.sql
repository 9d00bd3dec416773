-- Since PostgreSQL 16 whoever makes a role is a member of it, and may grant it, but may not take it on.
-- An owner without superuser, whose migrations made the roles, could neither audit nor examine.

DO $$
DECLARE role_name text;
BEGIN
    IF current_setting('server_version_num')::integer < 160000 THEN
        RETURN;  -- there whoever is a member may take it on
    END IF;
    FOREACH role_name IN ARRAY ARRAY[
        'tidegate_producer', 'tidegate_worker', 'tidegate_auditor', 'tidegate_operator'
    ] LOOP
        IF NOT pg_has_role(current_user, role_name, 'SET') THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER WITH SET TRUE', role_name);
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;  -- another made it, and has to grant it: `tidegate doctor` says so
            END;
        END IF;
    END LOOP;
END $$;
