-- calendars_read --
-- Every live gateway, and how far its calendar may have been handed out; null: not at all.
SELECT gateway_id, handed_out_until FROM gateways LEFT JOIN calendars USING (gateway_id)
WHERE revoked_at IS NULL

-- calendars_extend --
-- Take a block of each calendar whose recorded time is still what its claimant has read, in one order
-- for all claimants; a claimant that waited sees the time as it is now. The time only grows.
WITH asked AS (
    SELECT * FROM unnest(%(gateway_ids)s, %(recorded)s, %(until)s)
        AS a (gateway_id, recorded, until)
), made AS (
    INSERT INTO calendars (gateway_id, handed_out_until)
    SELECT gateway_id, until FROM asked WHERE recorded IS NULL ORDER BY gateway_id
    ON CONFLICT DO NOTHING
    RETURNING gateway_id
), unchanged AS (
    SELECT gateway_id, until FROM calendars c JOIN asked a USING (gateway_id)
    WHERE c.handed_out_until = a.recorded AND c.handed_out_until < a.until
    ORDER BY gateway_id FOR UPDATE OF c
), moved AS (
    UPDATE calendars c SET handed_out_until = u.until, recorded_at = clock_timestamp()
    FROM unchanged u WHERE c.gateway_id = u.gateway_id
    RETURNING c.gateway_id
)
SELECT gateway_id FROM made UNION ALL SELECT gateway_id FROM moved
