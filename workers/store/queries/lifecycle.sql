-- orders_lock --
SELECT o.order_id, o.campaign_id, o.user_id, o.status, o.total, o.discount, o.payable, o.currency,
       o.payment_deadline, o.coupon_id
FROM orders o JOIN intents i ON i.intent_id = o.order_id
WHERE o.order_id = ANY(%(order_ids)b::uuid[]) AND (%(gateway_id)s::text IS NULL OR i.gateway_id = %(gateway_id)s)
ORDER BY o.order_id FOR NO KEY UPDATE OF o

-- orders_due_lock --
-- Skips what a payment holds: it expires the order itself.
SELECT order_id, campaign_id, user_id, status, total, discount, payable, currency, payment_deadline,
       coupon_id
FROM orders
WHERE status = 'awaiting_payment' AND payment_deadline <= clock_timestamp()
ORDER BY payment_deadline LIMIT %(count_max)s FOR NO KEY UPDATE SKIP LOCKED

-- order_lines_read --
SELECT order_id, sku, quantity, unit_price FROM order_lines
WHERE order_id = ANY(%(order_ids)b::uuid[]) ORDER BY order_id, sku

-- budgets_lock --
SELECT campaign_id, budget - reserved - spent FROM budgets
WHERE campaign_id = ANY(%(campaign_ids)b::text[])
ORDER BY campaign_id FOR NO KEY UPDATE

-- stock_lock --
SELECT 1 FROM stock
WHERE (campaign_id, sku) IN (SELECT * FROM unnest(%(campaign_ids)b::text[], %(skus)b::text[]))
ORDER BY campaign_id, sku FOR NO KEY UPDATE

-- coupons_lock --
SELECT coupon_id, value FROM coupons WHERE coupon_id = ANY(%(coupon_ids)b::uuid[])
ORDER BY coupon_id FOR NO KEY UPDATE

-- counters_lock --
SELECT 1 FROM user_counters
WHERE (campaign_id, user_id) IN (SELECT * FROM unnest(%(campaign_ids)b::text[], %(user_ids)b::text[]))
  AND kind = 'order'
ORDER BY campaign_id, user_id, kind FOR NO KEY UPDATE

-- payments_read --
SELECT order_id, reference, amount, status FROM payments
WHERE order_id = ANY(%(order_ids)b::uuid[]) ORDER BY order_id, recorded_at

-- clock_read --
SELECT clock_timestamp()

-- orders_set --
-- And the outbox is told of it, for gateways with an endpoint. A payment recorded for a refund changes
-- no status. Whichever endpoint hears of it, it happened at one moment: the event reads the same.
WITH happened AS MATERIALIZED (
    SELECT clock_timestamp() AS at
), changed AS (
    UPDATE orders o SET status = d.status
    FROM unnest(%(order_ids)b::uuid[], %(statuses)b::text[]) AS d(order_id, status)
    WHERE o.order_id = d.order_id AND o.status <> d.status
    RETURNING o.order_id, 'tidegate.order.' || o.status AS event
)
INSERT INTO outbox (endpoint_id, subject_id, event, occurred_at)
SELECT e.endpoint_id, c.order_id, c.event, h.at
FROM changed c CROSS JOIN happened h
JOIN intents i ON i.intent_id = c.order_id
JOIN webhook_endpoints e ON e.gateway_id = i.gateway_id
WHERE e.disabled_at IS NULL AND c.event = ANY(e.events)
  AND EXISTS (SELECT FROM webhook_endpoints WHERE disabled_at IS NULL)

-- payments_insert --
INSERT INTO payments (order_id, reference, amount, status)
SELECT * FROM unnest(%(order_ids)b::uuid[], %(references)b::text[], %(amounts)b::bigint[],
                     %(statuses)b::text[])

-- payments_refund --
UPDATE payments p SET status = 'refund_due'
FROM unnest(%(order_ids)b::uuid[], %(references)b::text[]) AS d(order_id, reference)
WHERE p.order_id = d.order_id AND p.reference = d.reference AND p.status = 'accepted'

-- coupons_return --
WITH returned AS (
    SELECT * FROM unnest(%(coupon_ids)b::uuid[], %(values)b::bigint[]) AS d(coupon_id, value)
), freed AS (
    DELETE FROM redemptions r USING returned d WHERE r.coupon_id = d.coupon_id RETURNING r.coupon_id
)
UPDATE coupons c SET value = d.value FROM returned d JOIN freed USING (coupon_id)
WHERE c.coupon_id = d.coupon_id AND c.value <> d.value

-- coupons_due --
-- Unredeemed coupons whose window is over, from a stretch of ids; the row without a campaign says where
-- a full stretch ended. Only campaigns that still have something reserved are looked at, and not while
-- an intent accepted within the window is undecided: a wait of our making breaks no coupon. While
-- there is no such campaign, not one of millions of coupons is looked at.
WITH over AS MATERIALIZED (
    SELECT p.campaign_id FROM campaigns p JOIN budgets b USING (campaign_id)
    WHERE b.reserved > 0 AND p.coupons_valid_until <= clock_timestamp()
      AND NOT EXISTS (SELECT FROM open_intents o WHERE o.accepted_at < p.coupons_valid_until)
), stretch AS MATERIALIZED (
    SELECT coupon_id, campaign_id, expired_at FROM coupons
    WHERE coupon_id > %(after)s AND EXISTS (SELECT FROM over)
    ORDER BY coupon_id LIMIT %(stretch)s
), due AS (
    SELECT coupon_id, campaign_id FROM stretch s JOIN over USING (campaign_id)
    WHERE expired_at IS NULL
      AND NOT EXISTS (SELECT FROM redemptions r WHERE r.coupon_id = s.coupon_id)
    ORDER BY coupon_id LIMIT %(count_max)s
)
SELECT coupon_id, campaign_id FROM due
UNION ALL
(SELECT coupon_id, NULL FROM stretch ORDER BY coupon_id OFFSET %(stretch)s - 1)

-- coupons_expire --
-- Under the budget's lock; a coupon redeemed since it was seen is left alone, as is one whose campaign
-- was extended.
WITH locked AS (
    SELECT c.coupon_id FROM coupons c JOIN campaigns p USING (campaign_id)
    WHERE c.coupon_id = ANY(%(coupon_ids)b::uuid[]) AND c.expired_at IS NULL
      AND p.coupons_valid_until <= clock_timestamp()
    ORDER BY c.coupon_id FOR NO KEY UPDATE OF c
)
UPDATE coupons c SET expired_at = clock_timestamp()
FROM locked l
WHERE c.coupon_id = l.coupon_id
  AND NOT EXISTS (SELECT FROM redemptions r WHERE r.coupon_id = l.coupon_id)
RETURNING c.campaign_id, c.value
