-- open_due_take --
-- The oldest open intents whose hint is overdue; each is due again later than the last time.
WITH due AS (
    SELECT intent_id FROM open_intents
    WHERE dispatch_after <= clock_timestamp() AND (retry_after IS NULL OR retry_after <= clock_timestamp())
    ORDER BY intent_id LIMIT %(count_max)s FOR UPDATE SKIP LOCKED
)
UPDATE open_intents o
SET dispatch_after = clock_timestamp() + greatest(
    %(dispatch_after_ms)s * interval '1 ms', (clock_timestamp() - o.accepted_at) / 2)
FROM due WHERE o.intent_id = due.intent_id
RETURNING o.intent_id

-- open_exists --
-- Whether an open intent waits that no worker holds and whose first hint should have come by now.
SELECT EXISTS (
    SELECT FROM (
        SELECT accepted_at FROM open_intents
        WHERE retry_after IS NULL OR retry_after <= clock_timestamp()
        ORDER BY intent_id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) o WHERE o.accepted_at < clock_timestamp() - %(young_ms)s * interval '1 ms')

-- open_count --
SELECT count(*) FROM open_intents

-- open_read --
SELECT intent_id FROM open_intents

-- claims_sweep --
-- Records of batches whose intents all have their outcome: nobody will ask about them again.
DELETE FROM claims c
WHERE claimed_at < clock_timestamp() - %(older_ms)s * interval '1 ms'
  AND NOT EXISTS (SELECT FROM open_intents o WHERE o.intent_id = ANY(c.intent_ids))

-- partitions_ensure --
SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date, %(days)s)
