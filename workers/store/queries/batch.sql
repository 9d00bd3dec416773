-- claim_many --
-- Lock the hinted intents, and the oldest others up to the limit; what is gone or locked is another
-- worker's. Hinted ones are no others: a hint for the oldest would make its own batch smaller.
-- `since` spares a claim the entries that earlier ones left dead in the index. The journal is asked for
-- all of them at once, within bounds: one walk along its index, in the partitions they are in.
WITH hinted AS MATERIALIZED (
    SELECT intent_id FROM open_intents
    WHERE intent_id = ANY(%(hinted)b::uuid[]) AND (retry_after IS NULL OR retry_after <= now())
    ORDER BY intent_id FOR UPDATE SKIP LOCKED
), oldest AS MATERIALIZED (
    SELECT intent_id FROM open_intents
    WHERE intent_id >= %(since)s AND (retry_after IS NULL OR retry_after <= now())
      AND intent_id NOT IN (SELECT intent_id FROM hinted)
    ORDER BY intent_id LIMIT greatest(0, %(limit)s - (SELECT count(*) FROM hinted))
    FOR UPDATE SKIP LOCKED
), claimed AS MATERIALIZED (
    SELECT array_agg(intent_id ORDER BY intent_id) AS ids
    FROM (SELECT intent_id FROM hinted UNION ALL SELECT intent_id FROM oldest) AS either
)
SELECT intent_id, kind, gateway_id, user_id, campaign_id, accepted_at, body, clock_timestamp()
FROM intents
WHERE intent_id = ANY((SELECT ids FROM claimed)::uuid[])
  AND intent_id BETWEEN (SELECT ids[1] FROM claimed) AND (SELECT ids[cardinality(ids)] FROM claimed)

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

-- budgets_lock --
-- Whoever changes a campaign's coupons, or who holds them, has locked its budget first. So no coupon is
-- locked here: those of a campaign whose budget is locked stay as they are.
SELECT campaign_id, budget, reserved, spent, version FROM budgets
WHERE campaign_id = ANY(%(campaign_ids)b::text[])
ORDER BY campaign_id FOR NO KEY UPDATE

-- stock_lock --
-- A merchant's pause ends by itself. It is judged by the time the batch began: no receipt hangs on it.
SELECT s.campaign_id, s.sku, i.price, i.merchant_id,
       m.paused AND (m.paused_until IS NULL OR m.paused_until > now()), s.available,
       s.reserved, s.version
FROM stock s JOIN items i USING (campaign_id, sku) JOIN merchants m USING (merchant_id)
WHERE (s.campaign_id, s.sku) IN (SELECT * FROM unnest(%(campaign_ids)b::text[], %(skus)b::text[]))
ORDER BY s.campaign_id, s.sku FOR NO KEY UPDATE OF s

-- counters_lock --
SELECT t.campaign_id, t.user_id, t.kind, c.used
FROM (
    SELECT DISTINCT campaign_id, user_id, kind
    FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[], %(kinds)b::text[])
        AS t(campaign_id, user_id, kind)
    ORDER BY campaign_id, user_id, kind
) AS t CROSS JOIN LATERAL (
    SELECT used FROM user_counters c
    WHERE (c.campaign_id, c.user_id, c.kind) = (t.campaign_id, t.user_id, t.kind)
    FOR NO KEY UPDATE
) AS c

-- coupons_read --
-- After the locks, in a statement of its own: an older snapshot would miss what the batch before
-- committed while we waited for it.
SELECT c.coupon_id, c.campaign_id, c.user_id, c.value, c.expired_at IS NOT NULL, r.redeemed IS NOT NULL
FROM coupons c LEFT JOIN LATERAL (
    SELECT true AS redeemed FROM redemptions r WHERE r.coupon_id = c.coupon_id LIMIT 1
) AS r ON true  -- so that there is only one way to plan it, however small the tables were then
WHERE c.coupon_id = ANY(%(coupon_ids)b::uuid[])

-- terms_read --
-- The clock, and the terms beside it. After the locks, in a statement of its own: inside one that
-- waited, the clock stays before the wait.
SELECT clock_timestamp(), campaign_id, currency, starts_at, ends_at, orders_per_user_max,
       coupons_per_user_max, payment_window_ms, coupon_kind, coupon_amount, coupon_percent,
       coupon_minimum_total, coupon_skus, coupons_valid_from, coupons_valid_until
FROM (VALUES (true)) AS once LEFT JOIN campaigns ON campaign_id = ANY(%(campaign_ids)b::text[])

-- movements_write --
-- Balances, and the same movements in the ledger: one statement, whose entries have to balance. Its
-- parts touch rows that are locked already, and counters that are their users' first: those raise
-- if another batch has made them meanwhile, and this one is decided again. Their maximum is the
-- campaign's of now: an operator may have changed it since.
WITH budgets_moved AS (
    UPDATE budgets b SET reserved = b.reserved + d.reserved, spent = b.spent + d.spent
    FROM unnest(%(budget_ids)b::text[], %(budgets_reserved)b::bigint[], %(budgets_spent)b::bigint[])
         AS d(campaign_id, reserved, spent)
    WHERE b.campaign_id = d.campaign_id
), stock_moved AS (
    UPDATE stock s
    SET available = s.available + d.available, reserved = s.reserved + d.reserved, sold = s.sold + d.sold
    FROM unnest(%(stock_ids)b::text[], %(skus)b::text[], %(available)b::bigint[],
                %(reserved)b::bigint[], %(sold)b::bigint[])
         AS d(campaign_id, sku, available, reserved, sold)
    WHERE (s.campaign_id, s.sku) = (d.campaign_id, d.sku)
), counters_moved AS (
    UPDATE user_counters c
    SET used = c.used + d.step, max = CASE WHEN d.step < 0 THEN c.max
        WHEN d.kind = 'order' THEN p.orders_per_user_max ELSE p.coupons_per_user_max END
    FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[], %(kinds)b::text[], %(steps)b::bigint[])
         AS d(campaign_id, user_id, kind, step)
    JOIN campaigns p USING (campaign_id)
    WHERE (c.campaign_id, c.user_id, c.kind) = (d.campaign_id, d.user_id, d.kind)
), counters_begun AS (
    INSERT INTO user_counters (campaign_id, user_id, kind, used, max)
    SELECT d.campaign_id, d.user_id, d.kind, d.step,
           CASE d.kind WHEN 'order' THEN p.orders_per_user_max ELSE p.coupons_per_user_max END
    FROM unnest(%(first_campaign_ids)b::text[], %(first_user_ids)b::text[], %(first_kinds)b::text[],
                %(first_steps)b::bigint[]) AS d(campaign_id, user_id, kind, step)
    JOIN campaigns p USING (campaign_id)
    ORDER BY d.campaign_id, d.user_id, d.kind
)
INSERT INTO ledger (batch_id, account, delta)
SELECT %(batch_id)s, account, delta
FROM unnest(%(accounts)b::text[], %(deltas)b::bigint[]) AS t(account, delta)

-- outcomes_write --
-- All that is new of a batch, and what is done with: its open intents and its claim. One statement: an
-- insert of its own costs a batch of twenty more than its rows do.
WITH sold AS (
    INSERT INTO orders (order_id, user_id, campaign_id, status, total, discount, payable, currency,
                        coupon_id, payment_deadline, batch_id, created_at)
    SELECT order_id, user_id, campaign_id, status, total, discount, total - discount, currency,
           coupon_id, payment_deadline, %(batch_id)s, %(decided_at)s
    FROM unnest(%(order_ids)b::uuid[], %(user_ids)b::text[], %(campaign_ids)b::text[],
                %(statuses)b::text[], %(totals)b::bigint[], %(discounts)b::bigint[],
                %(currencies)b::text[], %(coupon_ids)b::uuid[], %(deadlines)b::timestamptz[])
         AS t(order_id, user_id, campaign_id, status, total, discount, currency, coupon_id,
              payment_deadline)
), lines AS (
    INSERT INTO order_lines (order_id, sku, quantity, unit_price)
    SELECT * FROM unnest(%(line_order_ids)b::uuid[], %(skus)b::text[], %(quantities)b::bigint[],
                         %(unit_prices)b::bigint[])
), redeemed AS (
    INSERT INTO redemptions (coupon_id, order_id, redeemed_at)
    SELECT coupon_id, order_id, %(decided_at)s
    FROM unnest(%(redeemed_ids)b::uuid[], %(redeeming_ids)b::uuid[]) AS t(coupon_id, order_id)
), issued AS (
    INSERT INTO coupons (coupon_id, campaign_id, user_id, value, issued_at)
    SELECT coupon_id, campaign_id, user_id, value, %(decided_at)s
    FROM unnest(%(issued_ids)b::uuid[], %(issued_campaign_ids)b::text[], %(issued_user_ids)b::text[],
                %(issued_values)b::bigint[]) AS t(coupon_id, campaign_id, user_id, value)
), closed AS (
    DELETE FROM open_intents WHERE intent_id = ANY(%(intent_ids)b::uuid[])
), forgotten AS (
    DELETE FROM claims WHERE batch_id = %(batch_id)s
), tallied AS (
    INSERT INTO tallies (slot, campaign_id, kind, reason, intents, coupons)
    SELECT pg_backend_pid() %% 256, coalesce(c.campaign_id, ''), t.kind, t.reason, sum(t.intents),
           sum(t.coupons)
    FROM unnest(%(tally_campaign_ids)b::text[], %(tally_kinds)b::text[], %(tally_reasons)b::text[],
                %(tally_intents)b::bigint[], %(tally_coupons)b::bigint[])
         AS t(campaign_id, kind, reason, intents, coupons)
    LEFT JOIN campaigns c USING (campaign_id)
    GROUP BY 2, 3, 4 ORDER BY 2, 3, 4
    ON CONFLICT (slot, campaign_id, kind, reason) DO UPDATE
    SET intents = tallies.intents + excluded.intents, coupons = tallies.coupons + excluded.coupons
), noted AS (
    -- For gateways with an endpoint; while there is none, nothing here is run.
    INSERT INTO outbox (endpoint_id, subject_id, event, occurred_at)
    SELECT e.endpoint_id, t.intent_id, t.event, %(decided_at)s
    FROM (
        SELECT intent_id, gateway_id, CASE WHEN reason IS NULL THEN 'tidegate.intent.committed'
            ELSE 'tidegate.intent.refused' END AS event
        FROM unnest(%(intent_ids)b::uuid[], %(gateway_ids)b::text[], %(reasons)b::text[])
            AS o(intent_id, gateway_id, reason)
    ) AS t
    JOIN webhook_endpoints e ON e.gateway_id = t.gateway_id
    WHERE e.disabled_at IS NULL AND t.event = ANY(e.events)
      AND EXISTS (SELECT FROM webhook_endpoints WHERE disabled_at IS NULL)
)
INSERT INTO outcomes (intent_id, reason, decided_at)
SELECT intent_id, reason, %(decided_at)s
FROM unnest(%(intent_ids)b::uuid[], %(reasons)b::text[]) AS t(intent_id, reason)

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
