-- campaign_lock --
-- One application of a campaign at a time, also of one that is not there yet.
SELECT pg_advisory_xact_lock(hashtext('tidegate.campaign'), hashtext(%(campaign_id)s))

-- budget_lock --
SELECT budget, reserved, spent FROM budgets WHERE campaign_id = %(campaign_id)s FOR NO KEY UPDATE

-- stock_lock --
SELECT sku FROM stock WHERE campaign_id = %(campaign_id)s ORDER BY campaign_id, sku FOR NO KEY UPDATE

-- campaign_read --
-- After the locks: what was applied while we waited is seen.
SELECT campaign_id, currency, starts_at, ends_at, orders_per_user_max, coupons_per_user_max,
       payment_window_ms, coupon_kind, coupon_amount, coupon_percent, coupon_minimum_total, coupon_skus,
       coupons_valid_from, coupons_valid_until, time_zone, rate_limits::json
FROM campaigns WHERE campaign_id = %(campaign_id)s

-- items_read --
SELECT i.sku, i.price, i.merchant_id, s.initial - coalesce(c.delta, 0), s.available
FROM items i
JOIN stock s USING (campaign_id, sku)
LEFT JOIN (
    SELECT sku, sum(delta)::bigint AS delta FROM stock_changes
    WHERE campaign_id = %(campaign_id)s GROUP BY sku
) c USING (sku)
WHERE i.campaign_id = %(campaign_id)s

-- stock_changes_read --
SELECT sku, change_id, delta FROM stock_changes WHERE campaign_id = %(campaign_id)s

-- merchants_read --
SELECT merchant_id, orders_per_minute_max FROM merchants
WHERE merchant_id = ANY(%(merchant_ids)b::text[])

-- clock_read --
SELECT clock_timestamp()

-- campaign_put --
INSERT INTO campaigns (campaign_id, currency, time_zone, starts_at, ends_at, orders_per_user_max,
                       coupons_per_user_max, payment_window_ms, coupon_kind, coupon_amount,
                       coupon_percent, coupon_minimum_total, coupon_skus, coupons_valid_from,
                       coupons_valid_until, rate_limits)
VALUES (%(campaign_id)s, %(currency)s, %(time_zone)s, %(starts_at)s, %(ends_at)s,
        %(orders_per_user_max)s, %(coupons_per_user_max)s, %(payment_window_ms)s, %(coupon_kind)s,
        %(coupon_amount)s, %(coupon_percent)s, %(coupon_minimum_total)s, %(coupon_skus)s,
        %(coupons_valid_from)s, %(coupons_valid_until)s, %(rate_limits)s::text::jsonb)
ON CONFLICT (campaign_id) DO UPDATE
SET time_zone = excluded.time_zone, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
    orders_per_user_max = excluded.orders_per_user_max,
    coupons_per_user_max = excluded.coupons_per_user_max,
    payment_window_ms = excluded.payment_window_ms, coupon_kind = excluded.coupon_kind,
    coupon_amount = excluded.coupon_amount, coupon_percent = excluded.coupon_percent,
    coupon_minimum_total = excluded.coupon_minimum_total, coupon_skus = excluded.coupon_skus,
    coupons_valid_from = excluded.coupons_valid_from,
    coupons_valid_until = excluded.coupons_valid_until, rate_limits = excluded.rate_limits,
    applied_at = now()

-- merchants_put --
-- In the order of their ids: two campaigns may share merchants, and be applied at once.
INSERT INTO merchants (merchant_id, orders_per_minute_max)
SELECT * FROM unnest(%(merchant_ids)b::text[], %(maxima)b::bigint[]) AS t(merchant_id, orders_max)
ORDER BY merchant_id
ON CONFLICT (merchant_id) DO UPDATE SET orders_per_minute_max = excluded.orders_per_minute_max

-- items_put --
INSERT INTO items (campaign_id, sku, merchant_id, price)
SELECT %(campaign_id)s, sku, merchant_id, price
FROM unnest(%(skus)b::text[], %(merchant_ids)b::text[], %(prices)b::bigint[]) AS t(sku, merchant_id, price)
ON CONFLICT (campaign_id, sku) DO UPDATE SET merchant_id = excluded.merchant_id, price = excluded.price

-- stock_open --
INSERT INTO stock (campaign_id, sku, initial, available)
SELECT %(campaign_id)s, sku, units, units FROM unnest(%(skus)b::text[], %(units)b::bigint[]) AS t(sku, units)

-- stock_change --
WITH changed AS (
    INSERT INTO stock_changes (campaign_id, change_id, sku, delta)
    SELECT %(campaign_id)s, change_id, sku, delta
    FROM unnest(%(change_ids)b::text[], %(skus)b::text[], %(deltas)b::bigint[]) AS t(change_id, sku, delta)
    RETURNING sku, delta
)
UPDATE stock s SET initial = s.initial + c.delta, available = s.available + c.delta
FROM changed c WHERE s.campaign_id = %(campaign_id)s AND s.sku = c.sku

-- budget_open --
INSERT INTO budgets (campaign_id, budget) VALUES (%(campaign_id)s, %(budget)s)

-- budget_change --
UPDATE budgets SET budget = budget + %(change)s WHERE campaign_id = %(campaign_id)s

-- ledger_enter --
INSERT INTO ledger (batch_id, account, delta)
SELECT %(batch_id)s, account, delta
FROM unnest(%(accounts)b::text[], %(deltas)b::bigint[]) AS t(account, delta)

-- action_record --
INSERT INTO operator_actions (actor, action, subject, reason, detail)
VALUES (%(actor)s, %(action)s, %(subject)s, %(reason)s, %(detail)s::text::jsonb)

-- touched_count --
-- How many users a campaign has met, and how many coupons they hold unredeemed.
SELECT (SELECT count(DISTINCT user_id) FROM user_counters WHERE campaign_id = %(campaign_id)s AND used > 0),
       (SELECT count(*) FROM coupons c
        WHERE c.campaign_id = %(campaign_id)s AND c.expired_at IS NULL
          AND NOT EXISTS (SELECT FROM redemptions r WHERE r.coupon_id = c.coupon_id))

-- campaigns_list --
SELECT c.campaign_id, c.starts_at, c.ends_at,
       CASE WHEN now() < c.starts_at THEN 'upcoming' WHEN now() < c.ends_at THEN 'open' ELSE 'over' END,
       c.currency, coalesce(b.budget, 0), coalesce(b.reserved, 0), coalesce(b.spent, 0),
       coalesce(s.skus, 0), coalesce(s.available, 0), coalesce(s.sold, 0)
FROM campaigns c
LEFT JOIN budgets b USING (campaign_id)
LEFT JOIN (
    SELECT campaign_id, count(*) AS skus, sum(available)::bigint AS available, sum(sold)::bigint AS sold
    FROM stock GROUP BY campaign_id
) s USING (campaign_id)
WHERE %(campaign_id)s::text IS NULL OR c.campaign_id = %(campaign_id)s
ORDER BY c.starts_at, c.campaign_id

-- items_list --
SELECT i.sku, i.merchant_id,
       m.paused AND (m.paused_until IS NULL OR m.paused_until > clock_timestamp()), i.price, s.initial, s.available, s.reserved, s.sold
FROM items i JOIN stock s USING (campaign_id, sku) JOIN merchants m USING (merchant_id)
WHERE i.campaign_id = %(campaign_id)s
ORDER BY i.sku

-- actions_list --
-- What operators did to a campaign, the latest first.
SELECT acted_at, actor, action, reason, detail::json FROM operator_actions
WHERE subject = %(subject)s ORDER BY action_id DESC LIMIT %(count_max)s
