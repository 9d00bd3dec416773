-- budget_lock --
-- The budget first, as every batch does; the terms are read after it.
SELECT budget - reserved - spent FROM budgets WHERE campaign_id = %(campaign_id)s FOR NO KEY UPDATE

-- terms_read --
SELECT coupon_amount, coupons_per_user_max, coupons_valid_until <= clock_timestamp()
FROM campaigns WHERE campaign_id = %(campaign_id)s

-- budget_read --
SELECT budget - reserved - spent FROM budgets WHERE campaign_id = %(campaign_id)s

-- coupons_known --
SELECT coupon_id FROM coupons WHERE coupon_id = ANY(%(coupon_ids)b::uuid[])

-- counters_lock --
SELECT user_id, used FROM user_counters
WHERE campaign_id = %(campaign_id)s AND kind = 'issuance' AND user_id = ANY(%(user_ids)b::text[])
ORDER BY campaign_id, user_id, kind FOR NO KEY UPDATE

-- coupons_insert --
INSERT INTO coupons (coupon_id, campaign_id, user_id, value, issued_at)
SELECT coupon_id, %(campaign_id)s, user_id, %(value)s, clock_timestamp()
FROM unnest(%(coupon_ids)b::uuid[], %(user_ids)b::text[]) AS t(coupon_id, user_id)

-- tally --
INSERT INTO tallies (slot, campaign_id, kind, reason, intents, coupons)
VALUES (pg_backend_pid() %% 256, %(campaign_id)s, 'bulk', '', 0, %(coupons)s)
ON CONFLICT (slot, campaign_id, kind, reason) DO UPDATE SET coupons = tallies.coupons + excluded.coupons
