-- clock_read --
SELECT now()

-- partitions_list --
-- The partitions of the journal and of the outcomes, the oldest first; sizes with their indexes.
SELECT p.relname, c.relname, pg_total_relation_size(c.oid)
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_class p ON p.oid = h.inhparent
WHERE h.inhparent IN ('intents'::regclass, 'outcomes'::regclass)
ORDER BY c.relname

-- pruned_before_read --
SELECT pruned_before FROM retention

-- oldest_open_read --
SELECT intent_id FROM open_intents ORDER BY intent_id LIMIT 1

-- oldest_unpaid_read --
SELECT order_id FROM orders WHERE status = 'awaiting_payment' ORDER BY order_id LIMIT 1

-- campaigns_kept --
-- Campaigns whose keys still live: those of their coupons' holders, and of whoever may still order.
-- FOR SHARE: none is prolonged while it is decided what to remove.
SELECT campaign_id FROM campaigns
WHERE greatest(ends_at, coupons_valid_until) + %(keys_outlive_ms)s * interval '1 ms' > now()
ORDER BY campaign_id FOR SHARE

-- oldest_kept_read --
-- The first intent within these ids that belongs to a campaign whose keys still live.
SELECT intent_id, campaign_id FROM intents
WHERE intent_id >= %(first)s AND intent_id < %(before)s
  AND campaign_id = ANY(%(campaign_ids)b::text[])
ORDER BY intent_id LIMIT 1

-- intents_count --
SELECT count(*) FROM intents WHERE intent_id >= %(first)s AND intent_id < %(before)s

-- outcomes_count --
SELECT count(*) FROM outcomes WHERE intent_id >= %(first)s AND intent_id < %(before)s

-- default_count --
SELECT (SELECT count(*) FROM intents_default WHERE intent_id < %(before)s),
       (SELECT count(*) FROM outcomes_default WHERE intent_id < %(before)s)

-- retention_advance --
UPDATE retention SET pruned_before = %(before)s WHERE pruned_before < %(before)s

-- keys_delete --
-- The keys of the next intents, as `journal.key_digest` makes them; a key that was bound anew since
-- is not theirs any more. Returns where to go on.
WITH next AS MATERIALIZED (
    SELECT intent_id, encode(substr(sha256(convert_to(
        gateway_id || E'\x1f' || kind || E'\x1f' || user_id || E'\x1f' || idempotency_key, 'UTF8'
    )), 1, 16), 'hex')::uuid AS digest
    FROM intents WHERE intent_id > %(after)s AND intent_id < %(before)s
    ORDER BY intent_id LIMIT %(count_max)s
), gone AS (
    DELETE FROM idempotency_keys k USING next n
    WHERE k.digest = n.digest AND k.intent_id = n.intent_id RETURNING k.digest
)
SELECT (SELECT count(*) FROM gone), (SELECT intent_id FROM next ORDER BY intent_id DESC LIMIT 1)

-- journal_lock --
-- Dropping a partition takes these locks of its parent anyway; all at once, and in the order in which
-- everybody else takes them.
LOCK TABLE ONLY intents, ONLY outcomes IN ACCESS EXCLUSIVE MODE

-- open_exists --
SELECT EXISTS (SELECT FROM open_intents WHERE intent_id >= %(first)s AND intent_id < %(before)s)

-- partition_drop --
-- Another run may have been faster.
DROP TABLE IF EXISTS {partition}

-- intents_default_delete --
-- By the partition's own name: the table is append-only for everybody who says `intents`.
DELETE FROM intents_default WHERE intent_id IN (
    SELECT intent_id FROM intents_default i WHERE intent_id < %(before)s
      AND NOT EXISTS (SELECT FROM open_intents o WHERE o.intent_id = i.intent_id)
    ORDER BY intent_id LIMIT %(count_max)s)

-- outcomes_default_delete --
DELETE FROM outcomes_default WHERE intent_id IN (
    SELECT intent_id FROM outcomes_default WHERE intent_id < %(before)s
    ORDER BY intent_id LIMIT %(count_max)s)
