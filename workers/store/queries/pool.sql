-- standby_awaited --
-- A commit that waits for the standby waits for all that was committed before it. Where none waits, or
-- nothing can be written, nothing happens.
SELECT CASE WHEN current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()
    THEN pg_logical_emit_message(true, 'tidegate', '') END
