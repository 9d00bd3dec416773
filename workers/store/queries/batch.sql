-- claim_many --
-- Lock the hinted intents, and the oldest others up to the limit; what is gone or locked is another
-- worker's. Hinted ones are no others: a hint for the oldest would make its own batch smaller.
WITH hinted AS MATERIALIZED (
    SELECT intent_id FROM open_intents
    WHERE intent_id = ANY(%(hinted)b::uuid[]) AND (retry_after IS NULL OR retry_after <= now())
    ORDER BY intent_id FOR UPDATE SKIP LOCKED
), oldest AS MATERIALIZED (
    SELECT intent_id FROM open_intents
    WHERE (retry_after IS NULL OR retry_after <= now())
      AND intent_id NOT IN (SELECT intent_id FROM hinted)
    ORDER BY intent_id LIMIT greatest(0, %(limit)s - (SELECT count(*) FROM hinted))
    FOR UPDATE SKIP LOCKED
), claimed AS (
    SELECT * FROM hinted UNION ALL SELECT * FROM oldest
)
SELECT i.intent_id, i.kind, i.gateway_id, i.user_id, i.campaign_id, i.accepted_at, i.body,
       clock_timestamp()
FROM claimed c JOIN intents i USING (intent_id)

-- claim_record --
-- Written and committed by a connection of its own before the work. Returns the claimed intents
-- that are still named in other batches' records: those batches died with them in hand.
WITH recorded AS (
    INSERT INTO claims (batch_id, worker, intent_ids)
    VALUES (%(batch_id)s, %(worker)s, %(intent_ids)b::uuid[])
    ON CONFLICT DO NOTHING  -- recorded before, on a connection that died before it said so
)
SELECT held.intent_id, count(*), count(*) FILTER (WHERE cardinality(c.intent_ids) = 1)
FROM claims c CROSS JOIN LATERAL unnest(c.intent_ids) AS held(intent_id)
WHERE c.batch_id <> %(batch_id)s AND held.intent_id = ANY(%(intent_ids)b::uuid[])
GROUP BY held.intent_id

-- claim_forget --
DELETE FROM claims WHERE batch_id = ANY(%(batch_ids)b::uuid[])

-- campaigns_read --
SELECT campaign_id, currency, starts_at, ends_at, orders_per_user_max, coupons_per_user_max,
       payment_window_ms, coupon_kind, coupon_amount, coupon_percent, coupon_minimum_total, coupon_skus,
       coupons_valid_from, coupons_valid_until
FROM campaigns WHERE campaign_id = ANY(%(campaign_ids)b::text[])

-- budgets_lock --
SELECT campaign_id, budget, reserved, spent FROM budgets
WHERE campaign_id = ANY(%(campaign_ids)b::text[])
ORDER BY campaign_id FOR NO KEY UPDATE

-- stock_lock --
SELECT s.campaign_id, s.sku, i.price, i.merchant_id, m.paused, s.available
FROM stock s JOIN items i USING (campaign_id, sku) JOIN merchants m USING (merchant_id)
WHERE (s.campaign_id, s.sku) IN (SELECT * FROM unnest(%(campaign_ids)b::text[], %(skus)b::text[]))
ORDER BY s.campaign_id, s.sku FOR NO KEY UPDATE OF s

-- coupons_lock --
SELECT coupon_id, campaign_id, user_id, value, expired_at IS NOT NULL FROM coupons
WHERE coupon_id = ANY(%(coupon_ids)b::uuid[])
ORDER BY coupon_id FOR NO KEY UPDATE

-- counters_lock --
SELECT campaign_id, user_id, kind, used FROM user_counters
WHERE (campaign_id, user_id, kind) IN
    (SELECT * FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[], %(kinds)b::text[]))
ORDER BY campaign_id, user_id, kind FOR NO KEY UPDATE

-- redemptions_read --
-- After the coupons' locks, in a statement of its own: an older snapshot would miss what the batch
-- before committed while we waited.
SELECT coupon_id FROM redemptions WHERE coupon_id = ANY(%(coupon_ids)b::uuid[])

-- clock_read --
-- After the locks, in a statement of its own: inside one that waited, the clock stays before the wait.
SELECT clock_timestamp()

-- outcomes_insert --
INSERT INTO outcomes (intent_id, reason, decided_at)
SELECT intent_id, reason, %(decided_at)s
FROM unnest(%(intent_ids)b::uuid[], %(reasons)b::text[]) AS t(intent_id, reason)

-- orders_insert --
INSERT INTO orders (order_id, user_id, campaign_id, status, total, discount, payable, currency,
                    coupon_id, payment_deadline, batch_id, created_at)
SELECT order_id, user_id, campaign_id, status, total, discount, total - discount, currency,
       coupon_id, payment_deadline, %(batch_id)s, %(decided_at)s
FROM unnest(%(order_ids)b::uuid[], %(user_ids)b::text[], %(campaign_ids)b::text[],
            %(statuses)b::text[], %(totals)b::bigint[], %(discounts)b::bigint[],
            %(currencies)b::text[], %(coupon_ids)b::uuid[], %(deadlines)b::timestamptz[])
     AS t(order_id, user_id, campaign_id, status, total, discount, currency, coupon_id, payment_deadline)

-- order_lines_insert --
INSERT INTO order_lines (order_id, sku, quantity, unit_price)
SELECT * FROM unnest(%(order_ids)b::uuid[], %(skus)b::text[], %(quantities)b::bigint[],
                     %(unit_prices)b::bigint[])

-- coupons_insert --
INSERT INTO coupons (coupon_id, campaign_id, user_id, value, issued_at)
SELECT coupon_id, campaign_id, user_id, value, %(decided_at)s
FROM unnest(%(coupon_ids)b::uuid[], %(campaign_ids)b::text[], %(user_ids)b::text[],
            %(values)b::bigint[]) AS t(coupon_id, campaign_id, user_id, value)

-- redemptions_insert --
INSERT INTO redemptions (coupon_id, order_id, redeemed_at)
SELECT coupon_id, order_id, %(decided_at)s
FROM unnest(%(coupon_ids)b::uuid[], %(order_ids)b::uuid[]) AS t(coupon_id, order_id)

-- counters_add --
-- The maximum is the campaign's of now: an operator may have changed it since the user's first.
INSERT INTO user_counters AS c (campaign_id, user_id, kind, used, max)
SELECT t.campaign_id, t.user_id, t.kind, t.step,
       CASE t.kind WHEN 'order' THEN p.orders_per_user_max ELSE p.coupons_per_user_max END
FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[], %(kinds)b::text[], %(steps)b::bigint[])
     AS t(campaign_id, user_id, kind, step)
JOIN campaigns p USING (campaign_id)
ORDER BY t.campaign_id, t.user_id, t.kind
ON CONFLICT (campaign_id, user_id, kind) DO UPDATE SET used = c.used + excluded.used, max = excluded.max

-- counters_lower --
UPDATE user_counters c SET used = c.used + d.step
FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[], %(kinds)b::text[], %(steps)b::bigint[])
     AS d(campaign_id, user_id, kind, step)
WHERE (c.campaign_id, c.user_id, c.kind) = (d.campaign_id, d.user_id, d.kind)

-- stock_move --
UPDATE stock s
SET available = s.available + d.available, reserved = s.reserved + d.reserved, sold = s.sold + d.sold
FROM unnest(%(campaign_ids)b::text[], %(skus)b::text[], %(available)b::bigint[],
            %(reserved)b::bigint[], %(sold)b::bigint[])
     AS d(campaign_id, sku, available, reserved, sold)
WHERE (s.campaign_id, s.sku) = (d.campaign_id, d.sku)

-- budgets_move --
UPDATE budgets b SET reserved = b.reserved + d.reserved, spent = b.spent + d.spent
FROM unnest(%(campaign_ids)b::text[], %(reserved)b::bigint[], %(spent)b::bigint[])
     AS d(campaign_id, reserved, spent)
WHERE b.campaign_id = d.campaign_id

-- ledger_enter --
INSERT INTO ledger (batch_id, account, delta)
SELECT %(batch_id)s, account, delta
FROM unnest(%(accounts)b::text[], %(deltas)b::bigint[]) AS t(account, delta)

-- open_intents_close --
DELETE FROM open_intents WHERE intent_id = ANY(%(intent_ids)b::uuid[])

-- failure_record --
UPDATE open_intents
SET attempts = attempts + %(counted)s, last_error = %(error)s,
    retry_after = CASE WHEN attempts + %(counted)s < %(failures_max)s
        THEN clock_timestamp() + (%(pause_ms)s << attempts) * interval '1 ms' END
WHERE intent_id = %(intent_id)s
RETURNING attempts

-- quarantine_insert --
INSERT INTO quarantine (intent_id, error, attempts)
VALUES (%(intent_id)s, %(error)s, %(attempts)s)
