-- intents_read --
-- What the journal says of a campaign's intents, and what became of them.
SELECT intent_id::text, kind, idempotency_key, user_id, status, coalesce(reason, '')
FROM audit.intents WHERE campaign_id = %(campaign_id)s

-- orders_read --
SELECT order_id::text, intent_id::text, user_id, status, total, discount, payable, coupon_id::text
FROM audit.orders WHERE campaign_id = %(campaign_id)s

-- lines_read --
SELECT order_id::text, sku, quantity FROM audit.order_lines WHERE campaign_id = %(campaign_id)s

-- coupons_read --
SELECT coupon_id::text, user_id, status, value, redeemed_by_order::text
FROM audit.coupons WHERE campaign_id = %(campaign_id)s

-- payments_read --
SELECT p.order_id::text, p.reference, p.amount, p.status
FROM audit.payments p JOIN audit.orders o USING (order_id) WHERE o.campaign_id = %(campaign_id)s

-- accounts_read --
-- Every account of a campaign, with the sum of its movements: one statement, so of one moment.
SELECT account, coalesce(a.balance, 0)::bigint, coalesce(l.moved, 0)::bigint
FROM (
    SELECT account, balance FROM audit.accounts WHERE split_part(account, ':', 2) = %(campaign_id)s
) a
FULL JOIN (
    SELECT account, sum(delta) AS moved FROM audit.ledger
    WHERE split_part(account, ':', 2) = %(campaign_id)s GROUP BY account
) l USING (account)

-- unbalanced_read --
-- Batches of a campaign's ledger whose movements do not sum to zero for each unit.
SELECT batch_id::text, regexp_replace(account, ':[^:]*$', '') AS unit, sum(delta)::bigint
FROM audit.ledger WHERE split_part(account, ':', 2) = %(campaign_id)s
GROUP BY 1, 2 HAVING sum(delta) <> 0

-- connections_count --
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'

-- backends_read --
-- The server's processes for everybody's connections but those of chaos itself.
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name <> 'tidegate-chaos' ORDER BY pid

-- backend_terminate --
SELECT pg_terminate_backend(%(pid)s)

-- stock_locked --
SELECT count(*) FROM (SELECT FROM stock WHERE campaign_id = %(campaign_id)s FOR UPDATE) AS held

-- budgets_locked --
SELECT count(*) FROM (SELECT FROM budgets WHERE campaign_id = %(campaign_id)s FOR UPDATE) AS held

-- open_intents_locked --
LOCK TABLE open_intents IN SHARE ROW EXCLUSIVE MODE

-- keys_locked --
LOCK TABLE idempotency_keys IN SHARE MODE

-- snapshot_taken --
SELECT count(*) FROM open_intents

-- poison_journal --
-- An intent that no worker can decide, journalled as the intake would.
WITH keyed AS (
    INSERT INTO idempotency_keys (digest, intent_id, fingerprint)
    VALUES (%(digest)s, %(intent_id)s, %(intent_id)s) RETURNING intent_id
), journalled AS (
    INSERT INTO intents
        (intent_id, kind, gateway_id, idempotency_key, user_id, campaign_id, body, accepted_at)
    SELECT intent_id, 'order', %(gateway_id)s, %(key)s, %(user_id)s, %(campaign_id)s,
        %(body)s::json, now() FROM keyed
)
INSERT INTO open_intents (intent_id, accepted_at, dispatch_after)
SELECT intent_id, now(), now() + interval '5 s' FROM keyed

-- segment_ended --
SELECT pg_switch_wal()

-- standby_awaited --
-- From the next look at its configuration on, every commit waits for a standby.
ALTER SYSTEM SET synchronous_standby_names = '*'

-- configuration_reloaded --
SELECT pg_reload_conf()

-- standbys_in_step --
SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'

-- standby_promoted --
SELECT pg_promote(wait_seconds => 20)

-- standby_waits_cancelled --
-- What an operator may do to a commit that waits for a standby: it is told that it was done.
SELECT count(*) FILTER (WHERE pg_cancel_backend(pid))
FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE %(name)s
