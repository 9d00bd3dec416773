-- campaigns_read --
-- Rate limits, windows, coupons and pauses of every campaign. A pause that is over counts no longer, by
-- this clock.
SELECT campaign_id, rate_limits::json, starts_at, ends_at, coupon_amount,
       issuance_paused_at IS NOT NULL
           AND (issuance_resume_at IS NULL OR issuance_resume_at > clock_timestamp()),
       issuance_resume_at, applied_at
FROM campaigns

-- gateway_limits_read --
SELECT gateway_id, rate, burst FROM gateways WHERE revoked_at IS NULL

-- merchants_read --
-- Those that are limited or paused.
SELECT merchant_id, orders_per_minute_max, paused AND (paused_until IS NULL OR paused_until > clock_timestamp())
FROM merchants WHERE orders_per_minute_max IS NOT NULL OR paused

-- level_order_read --
SELECT level, ordered_at, until FROM level_orders WHERE until IS NULL OR until > clock_timestamp()

-- goods_read --
-- Whose goods are whose, in campaigns that may still sell.
SELECT i.campaign_id, i.sku, i.merchant_id
FROM items i JOIN campaigns c USING (campaign_id) WHERE c.ends_at > clock_timestamp()

-- gateway_of_key --
SELECT k.gateway_id FROM gateway_keys k JOIN gateways g USING (gateway_id)
WHERE k.key_id = %(key_id)s AND (k.revoked_at IS NULL OR k.revoked_at > clock_timestamp())
  AND g.revoked_at IS NULL AND %(scope)s = ANY(g.scopes)
