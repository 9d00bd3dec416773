-- clock_read --
SELECT clock_timestamp()

-- pull_read --
-- What one actor used a key for.
SELECT action, subject FROM operator_actions
WHERE actor = %(actor)s AND detail ? 'idempotency_key' AND detail ->> 'idempotency_key' = %(key)s

-- issuance_read --
SELECT issuance_paused_at IS NOT NULL
           AND (issuance_resume_at IS NULL OR issuance_resume_at > clock_timestamp()),
       issuance_resume_at, issuance_pause_reason
FROM campaigns WHERE campaign_id = %(campaign_id)s FOR NO KEY UPDATE

-- issuance_pause_read --
SELECT issuance_paused_at, issuance_resume_at, issuance_pause_reason
FROM campaigns
WHERE campaign_id = %(campaign_id)s AND issuance_paused_at IS NOT NULL
  AND (issuance_resume_at IS NULL OR issuance_resume_at > clock_timestamp())

-- issuance_pause --
UPDATE campaigns
SET issuance_paused_at = clock_timestamp(), issuance_resume_at = %(until)s,
    issuance_pause_reason = %(reason)s
WHERE campaign_id = %(campaign_id)s

-- issuance_resume --
UPDATE campaigns
SET issuance_paused_at = NULL, issuance_resume_at = NULL, issuance_pause_reason = NULL
WHERE campaign_id = %(campaign_id)s

-- issuance_touched --
-- Wishes for coupons of a campaign that were accepted already: a pause takes nothing from them.
SELECT count(*) FROM open_intents o JOIN intents i USING (intent_id)
WHERE i.kind = 'issuance' AND i.campaign_id = %(campaign_id)s

-- window_read --
SELECT ends_at, coupons_valid_until FROM campaigns WHERE campaign_id = %(campaign_id)s

-- window_extend --
-- A coupon is redeemed by an order, and orders end with the campaign: so it goes on at least as long.
UPDATE campaigns
SET coupons_valid_until = %(valid_until)s, ends_at = greatest(ends_at, %(valid_until)s),
    applied_at = clock_timestamp()
WHERE campaign_id = %(campaign_id)s
RETURNING ends_at

-- expired_count --
SELECT count(*) FROM coupons WHERE campaign_id = %(campaign_id)s AND expired_at IS NOT NULL

-- merchant_read --
SELECT paused AND (paused_until IS NULL OR paused_until > clock_timestamp()), paused_until, pause_reason
FROM merchants WHERE merchant_id = %(merchant_id)s FOR NO KEY UPDATE

-- merchant_pause --
UPDATE merchants SET paused = true, paused_until = %(until)s, pause_reason = %(reason)s
WHERE merchant_id = %(merchant_id)s

-- merchant_resume --
UPDATE merchants SET paused = false, paused_until = NULL, pause_reason = NULL
WHERE merchant_id = %(merchant_id)s

-- merchants_list --
SELECT m.merchant_id, m.orders_per_minute_max,
       m.paused AND (m.paused_until IS NULL OR m.paused_until > clock_timestamp()) AS is_paused,
       m.paused_until, m.pause_reason, count(i.sku)
FROM merchants m LEFT JOIN items i USING (merchant_id)
GROUP BY m.merchant_id ORDER BY m.merchant_id

-- merchant_touched --
-- Who waits for this merchant's goods, how many coupons could be redeemed there, and how many items and
-- units it sells.
WITH goods AS MATERIALIZED (
    SELECT campaign_id, sku FROM items WHERE merchant_id = %(merchant_id)s
), waiting AS MATERIALIZED (
    SELECT i.user_id FROM open_intents o JOIN intents i USING (intent_id)
    WHERE i.kind = 'order' AND EXISTS (
        SELECT FROM json_array_elements(i.body -> 'lines') AS line
        JOIN goods g ON g.campaign_id = i.campaign_id AND g.sku = line ->> 'sku')
)
SELECT (SELECT count(DISTINCT user_id) FROM waiting), (SELECT count(*) FROM waiting),
       (SELECT count(*) FROM coupons c
        WHERE c.campaign_id IN (SELECT campaign_id FROM goods) AND c.expired_at IS NULL
          AND NOT EXISTS (SELECT FROM redemptions r WHERE r.coupon_id = c.coupon_id)),
       (SELECT count(*) FROM goods),
       (SELECT coalesce(sum(available), 0)::bigint FROM stock JOIN goods USING (campaign_id, sku))
