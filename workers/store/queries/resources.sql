-- resources_read_many --
-- What became of these intents so far; unknown ids are left out. The ids are said again for each
-- partitioned table, so that each prunes to the days it needs.
SELECT i.intent_id, i.kind, i.gateway_id, i.user_id, i.body::text, i.accepted_at,
       d.decided_at, d.reason,
       o.status, o.total, o.discount, o.payable, o.currency, o.payment_deadline,
       l.skus, l.quantities, l.unit_prices,
       c.value, p.coupons_valid_until
FROM intents i
LEFT JOIN outcomes d ON d.intent_id = i.intent_id AND d.intent_id = ANY(%(intent_ids)b::uuid[])
LEFT JOIN orders o ON o.order_id = i.intent_id AND o.order_id = ANY(%(intent_ids)b::uuid[])
LEFT JOIN (
    SELECT order_id, array_agg(sku) AS skus, array_agg(quantity) AS quantities,
           array_agg(unit_price) AS unit_prices
    FROM order_lines WHERE order_id = ANY(%(intent_ids)b::uuid[]) GROUP BY order_id
) l ON l.order_id = o.order_id
LEFT JOIN coupons c ON c.coupon_id = i.intent_id AND c.coupon_id = ANY(%(intent_ids)b::uuid[])
LEFT JOIN campaigns p ON p.campaign_id = c.campaign_id
WHERE i.intent_id = ANY(%(intent_ids)b::uuid[])

-- coupons_of_user --
-- A user's coupons, the newest first. The limit bounds an answer, not what a user may have. A code is
-- worth money: what another gateway had issued is not told. What was issued in bulk has no intent; but
-- neither has, in the end, what was pruned (see `prune.campaigns_kept`), so then none is told.
SELECT c.coupon_id, c.campaign_id, c.value, p.currency,
       CASE WHEN r.coupon_id IS NOT NULL THEN 'redeemed'
            WHEN c.expired_at IS NOT NULL OR p.coupons_valid_until <= now() THEN 'expired'
            ELSE 'issued' END,
       c.issued_at, p.coupons_valid_from, p.coupons_valid_until
FROM coupons c
JOIN campaigns p USING (campaign_id)
LEFT JOIN redemptions r USING (coupon_id)
LEFT JOIN intents i ON i.intent_id = c.coupon_id
WHERE c.user_id = %(user_id)s AND (i.gateway_id = %(gateway_id)s OR i.intent_id IS NULL
      AND greatest(p.ends_at, p.coupons_valid_until) + %(keys_outlive_ms)s * interval '1 ms' > now())
ORDER BY c.coupon_id DESC
LIMIT %(limit)s

-- reading_check --
-- Whether the journal can be read.
SELECT 1 FROM intents LIMIT 1
