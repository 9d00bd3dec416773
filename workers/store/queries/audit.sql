-- retention_is_past --
-- The audit looks at everything but what was pruned, and nothing younger than a day was pruned.
SELECT count(*), count(*) FILTER (WHERE pruned_before > uuid7_floor(now() - interval '1 day'))
                 + abs(count(*) - 1), min(pruned_before::text)
FROM retention

-- intents_accounted_for --
-- Every receipted intent has its outcome, or is open and will get one.
SELECT count(*), count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT i.intent_id, d.intent_id IS NULL AND o.intent_id IS NULL AS wrong
    FROM intents i
    LEFT JOIN outcomes d ON d.intent_id = i.intent_id
    LEFT JOIN open_intents o ON o.intent_id = i.intent_id
    WHERE i.intent_id >= (SELECT pruned_before FROM retention)
) t

-- outcomes_at_most_one --
-- No intent has two outcomes, and none has one that was never asked for.
SELECT coalesce(sum(n), 0)::bigint, count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT d.intent_id, d.n, d.n > 1 OR i.intent_id IS NULL AS wrong
    FROM (
        SELECT intent_id, count(*) AS n FROM outcomes
        WHERE intent_id >= (SELECT pruned_before FROM retention) GROUP BY intent_id
    ) d
    LEFT JOIN intents i ON i.intent_id = d.intent_id
) t

-- ids_are_unique --
-- No two intents, no two orders and no two coupons share an id.
SELECT coalesce(sum(n), 0)::bigint, count(*) FILTER (WHERE n > 1), min(id::text) FILTER (WHERE n > 1)
FROM (
    SELECT intent_id AS id, count(*) AS n FROM intents
    WHERE intent_id >= (SELECT pruned_before FROM retention) GROUP BY intent_id
    UNION ALL
    SELECT order_id, count(*) FROM orders GROUP BY order_id
    UNION ALL
    SELECT coupon_id, count(*) FROM coupons GROUP BY coupon_id
) t

-- open_intents_undecided --
-- No open intent has an outcome, and none lacks its journal row.
SELECT count(*), count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT o.intent_id, d.intent_id IS NOT NULL OR i.intent_id IS NULL AS wrong
    FROM open_intents o
    LEFT JOIN outcomes d ON d.intent_id = o.intent_id
    LEFT JOIN intents i ON i.intent_id = o.intent_id
) t

-- drained --
-- Nothing is open any more. Asked only when the system should have come to rest.
SELECT count(*), count(*), min(intent_id::text) FROM open_intents

-- keys_bind_one_intent --
-- Every intent's key is bound to it, and no key to anything else.
SELECT count(*), count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(i.intent_id, k.intent_id) AS intent_id,
           k.intent_id IS DISTINCT FROM i.intent_id AS wrong
    FROM (
        SELECT intent_id, substr(sha256(convert_to(
            gateway_id || E'\x1f' || kind || E'\x1f' || user_id || E'\x1f' || idempotency_key, 'UTF8'
        )), 1, 16) AS digest
        FROM intents WHERE intent_id >= (SELECT pruned_before FROM retention)
    ) i
    FULL JOIN (
        SELECT intent_id, uuid_send(digest) AS digest FROM idempotency_keys
        WHERE intent_id >= (SELECT pruned_before FROM retention)
    ) k USING (digest)
) t

-- orders_from_intents --
-- Orders are exactly the committed intents of kind order, of the same user: none for a refused one.
SELECT count(*), count(*) FILTER (WHERE wrong), min(id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(o.order_id, d.intent_id) AS id,
           o.order_id IS NULL OR d.intent_id IS NULL
           OR o.user_id <> d.user_id OR o.campaign_id <> d.campaign_id AS wrong
    FROM (
        SELECT order_id, user_id, campaign_id FROM orders
        WHERE order_id >= (SELECT pruned_before FROM retention)
    ) o
    FULL JOIN (
        SELECT i.intent_id, i.user_id, i.campaign_id FROM intents i JOIN outcomes d USING (intent_id)
        WHERE i.intent_id >= (SELECT pruned_before FROM retention)
          AND i.kind = 'order' AND d.reason IS NULL
    ) d ON d.intent_id = o.order_id
) t

-- orders_as_wished --
-- An order holds the lines and the coupon of its intent: no other goods, no other quantity.
SELECT count(*), count(*) FILTER (WHERE wrong), min(order_id::text) FILTER (WHERE wrong)
FROM (
    SELECT o.order_id,
           l.lines IS DISTINCT FROM w.lines OR o.coupon_id IS DISTINCT FROM w.coupon_id AS wrong
    FROM orders o
    JOIN (  -- by a sum of hashes, since the order of lines means nothing; OFFSET 0: one sum a row
        SELECT intent_id, (body ->> 'coupon_id')::uuid AS coupon_id, (
            SELECT sum(hashtextextended(line ->> 'sku', (line ->> 'quantity')::bigint))
            FROM json_array_elements(body -> 'lines') AS line) AS lines
        FROM intents
        WHERE intent_id >= (SELECT pruned_before FROM retention) AND kind = 'order' OFFSET 0
    ) w ON w.intent_id = o.order_id
    LEFT JOIN (
        SELECT order_id, sum(hashtextextended(sku, quantity)) AS lines
        FROM order_lines WHERE order_id >= (SELECT pruned_before FROM retention) GROUP BY order_id
    ) l ON l.order_id = o.order_id
    WHERE o.order_id >= (SELECT pruned_before FROM retention)
) t

-- orders_match_lines --
-- An order's total is the sum of its lines, less its discount it is payable; only a coupon takes
-- anything off, and only what is payable is awaited.
SELECT count(*), count(*) FILTER (WHERE wrong), min(order_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(o.order_id, l.order_id) AS order_id,
           o.total IS DISTINCT FROM l.total OR o.payable <> o.total - o.discount OR o.payable < 0
           OR o.discount < 0 OR (o.discount > 0 AND o.coupon_id IS NULL)
           OR (o.status = 'awaiting_payment' AND (o.payable = 0 OR o.payment_deadline IS NULL)) AS wrong
    FROM orders o
    FULL JOIN (
        SELECT order_id, sum(quantity * unit_price)::bigint AS total FROM order_lines GROUP BY order_id
    ) l ON l.order_id = o.order_id
) t

-- coupons_from_issuances --
-- A committed issuance gave its user one coupon, any other none. Coupons without an intent were
-- issued in bulk: the budget and the counters speak for them.
SELECT count(*), count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT i.intent_id,
           (d.intent_id IS NOT NULL AND d.reason IS NULL) <> (c.coupon_id IS NOT NULL)
           OR c.user_id <> i.user_id OR c.campaign_id <> i.campaign_id AS wrong
    FROM intents i
    LEFT JOIN outcomes d ON d.intent_id = i.intent_id
    LEFT JOIN coupons c ON c.coupon_id = i.intent_id
    WHERE i.intent_id >= (SELECT pruned_before FROM retention) AND i.kind = 'issuance'
) t

-- stock_adds_up --
-- initial = available + reserved + sold, and none is negative.
SELECT count(*), count(*) FILTER (WHERE wrong), min(sku) FILTER (WHERE wrong)
FROM (
    SELECT sku, initial <> available + reserved + sold OR available < 0 OR reserved < 0 OR sold < 0 AS wrong
    FROM stock
) t

-- stock_matches_orders --
-- Units sold are those of confirmed orders, units reserved those of orders awaiting payment.
SELECT count(*), count(*) FILTER (WHERE wrong), min(sku) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(s.sku, l.sku) AS sku,
           coalesce(s.sold, 0) <> coalesce(l.sold, 0) OR coalesce(s.reserved, 0) <> coalesce(l.reserved, 0) AS wrong
    FROM stock s
    FULL JOIN (
        SELECT o.campaign_id, l.sku,
               sum(l.quantity) FILTER (WHERE o.status = 'confirmed') AS sold,
               sum(l.quantity) FILTER (WHERE o.status = 'awaiting_payment') AS reserved
        FROM orders o JOIN order_lines l USING (order_id)
        WHERE o.status IN ('confirmed', 'awaiting_payment') GROUP BY o.campaign_id, l.sku
    ) l USING (campaign_id, sku)
) t

-- budgets_hold --
-- Spent is what confirmed orders took; reserved is what outstanding coupons and unpaid orders hold;
-- together they never exceed the budget.
SELECT count(*), count(*) FILTER (WHERE wrong), min(campaign_id) FILTER (WHERE wrong)
FROM (
    SELECT campaign_id,
           b.campaign_id IS NULL OR b.reserved < 0 OR b.spent < 0 OR b.reserved + b.spent > b.budget
           OR b.spent <> coalesce(o.spent, 0) OR b.reserved <> coalesce(c.reserved, 0) AS wrong
    FROM budgets b
    FULL JOIN (
        SELECT campaign_id, sum(discount) AS spent FROM orders
        WHERE status = 'confirmed' AND coupon_id IS NOT NULL GROUP BY campaign_id
    ) o USING (campaign_id)
    FULL JOIN (
        SELECT c.campaign_id, sum(c.value) AS reserved
        FROM coupons c
        LEFT JOIN redemptions r USING (coupon_id)
        LEFT JOIN orders o USING (order_id)
        WHERE c.expired_at IS NULL AND (r.coupon_id IS NULL OR o.status = 'awaiting_payment')
        GROUP BY c.campaign_id
    ) c USING (campaign_id)
) t

-- coupons_redeemed_once_by_owner --
-- A coupon stands in at most one living order, one of its owner's and of its own campaign; it had
-- not expired, and took no more off than it holds.
SELECT count(*), count(*) FILTER (WHERE wrong), min(coupon_id::text) FILTER (WHERE wrong)
FROM (
    SELECT o.coupon_id,
           count(*) > 1 OR bool_or(c.coupon_id IS NULL OR c.user_id <> o.user_id
                                   OR c.campaign_id <> o.campaign_id OR c.expired_at IS NOT NULL
                                   OR o.discount > c.value) AS wrong
    FROM orders o LEFT JOIN coupons c USING (coupon_id)
    WHERE o.coupon_id IS NOT NULL AND o.status IN ('confirmed', 'awaiting_payment')
    GROUP BY o.coupon_id
) t

-- redemptions_match_orders --
-- Redemptions are exactly the coupons of living orders.
SELECT count(*), count(*) FILTER (WHERE wrong), min(coupon_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(o.coupon_id, r.coupon_id) AS coupon_id,
           o.order_id IS DISTINCT FROM r.order_id AS wrong
    FROM redemptions r
    FULL JOIN (
        SELECT coupon_id, order_id FROM orders
        WHERE coupon_id IS NOT NULL AND status IN ('confirmed', 'awaiting_payment')
    ) o ON o.coupon_id = r.coupon_id AND o.order_id = r.order_id
) t

-- user_limits_hold --
-- A user's counter is what he has, and never above his maximum.
SELECT count(*), count(*) FILTER (WHERE wrong), min(user_id) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(c.user_id, h.user_id) AS user_id,
           coalesce(c.used, 0) <> coalesce(h.has, 0) OR c.used < 0 OR c.used > c.max AS wrong
    FROM user_counters c
    FULL JOIN (
        SELECT campaign_id, user_id, 'order' AS kind, count(*) AS has FROM orders
        WHERE status IN ('confirmed', 'awaiting_payment') GROUP BY campaign_id, user_id
        UNION ALL
        SELECT campaign_id, user_id, 'issuance', count(*) FROM coupons GROUP BY campaign_id, user_id
    ) h USING (campaign_id, user_id, kind)
) t

-- ledger_equals_balances --
-- Every account's balance is the sum of its movements.
SELECT count(*), count(*) FILTER (WHERE wrong), min(account) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(a.account, l.account) AS account,
           coalesce(a.balance, 0) <> coalesce(l.balance, 0) OR a.account IS NULL AS wrong
    FROM audit.accounts a
    FULL JOIN (SELECT account, sum(delta) AS balance FROM ledger GROUP BY account) l USING (account)
) t

-- ledger_batches_balance --
-- The deltas of each batch sum to zero per unit.
SELECT count(*), count(*) FILTER (WHERE total <> 0), min(batch_id::text) FILTER (WHERE total <> 0)
FROM (
    SELECT batch_id, sum(delta) AS total FROM ledger GROUP BY batch_id, unit_of(account)
) t

-- orders_in_ledger --
-- What the orders of a batch took is what the ledger says the batch took, and nobody else took units.
SELECT count(*), count(*) FILTER (WHERE wrong), min(batch_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(o.batch_id, l.batch_id) AS batch_id, o.taken IS DISTINCT FROM l.taken AS wrong
    FROM (
        SELECT batch_id, format('stock:%s:%s', campaign_id, sku) AS unit, taken
        FROM (
            SELECT o.batch_id, o.campaign_id, l.sku, sum(l.quantity) AS taken
            FROM orders o JOIN order_lines l USING (order_id) GROUP BY o.batch_id, o.campaign_id, l.sku
        ) sums
    ) o
    FULL JOIN (  -- payment moves units between the two accounts, release takes them out
        SELECT batch_id, unit_of(account) AS unit, sum(delta) AS taken FROM ledger
        WHERE account LIKE 'stock:%:reserved' OR account LIKE 'stock:%:sold'
        GROUP BY batch_id, unit_of(account) HAVING sum(delta) > 0
    ) l USING (batch_id, unit)
) t

-- payments_match_orders --
-- A confirmed order with something to pay has exactly its one payment; no other order keeps one, and
-- none was taken for an order that does not exist.
SELECT count(*), count(*) FILTER (WHERE wrong), min(order_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(o.order_id, p.order_id) AS order_id,
           CASE WHEN o.order_id IS NULL THEN true
                WHEN o.status = 'confirmed' AND o.payable > 0
                THEN p.accepted IS DISTINCT FROM 1 OR p.amount IS DISTINCT FROM o.payable
                ELSE p.accepted > 0 END AS wrong
    FROM orders o
    FULL JOIN (
        SELECT order_id, count(*) FILTER (WHERE status = 'accepted') AS accepted,
               sum(amount) FILTER (WHERE status = 'accepted') AS amount
        FROM payments GROUP BY order_id
    ) p ON p.order_id = o.order_id
    WHERE o.payable > 0 OR p.order_id IS NOT NULL
) t

-- quarantined_were_told --
-- A quarantined intent's outcome is `could_not_be_processed`, no other intent's is, and what it was
-- retried as is in the journal.
SELECT count(*), count(*) FILTER (WHERE wrong), min(intent_id::text) FILTER (WHERE wrong)
FROM (
    SELECT coalesce(q.intent_id, d.intent_id) AS intent_id,
           q.intent_id IS NULL OR d.intent_id IS NULL
           OR (q.retried_as IS NOT NULL AND r.intent_id IS NULL) AS wrong
    FROM (SELECT * FROM quarantine WHERE intent_id >= (SELECT pruned_before FROM retention)) q
    FULL JOIN (
        SELECT intent_id FROM outcomes
        WHERE intent_id >= (SELECT pruned_before FROM retention) AND reason = 'could_not_be_processed'
    ) d USING (intent_id)
    LEFT JOIN intents r ON r.intent_id = q.retried_as
) t
