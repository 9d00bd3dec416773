-- level_read --
SELECT level, reason, ordered_at, until FROM level_orders
WHERE until IS NULL OR until > clock_timestamp()

-- level_lock --
-- One operator at a time, also while no order stands.
SELECT pg_advisory_xact_lock(hashtext('tidegate.level'))

-- level_put --
INSERT INTO level_orders (level, reason, ordered_at, until)
VALUES (%(level)s, %(reason)s, clock_timestamp(), clock_timestamp() + %(for_ms)s * interval '1 ms')
ON CONFLICT (only_one) DO UPDATE
SET level = excluded.level, reason = excluded.reason, ordered_at = excluded.ordered_at,
    until = excluded.until
RETURNING level, reason, ordered_at, until

-- level_lift --
DELETE FROM level_orders

-- level_touched --
-- Of the campaigns that are open now: the users they have met, and the coupons held unredeemed; and of
-- all, the intents that wait for their outcome.
WITH live AS MATERIALIZED (
    SELECT campaign_id FROM campaigns WHERE starts_at <= now() AND now() < ends_at
)
SELECT (SELECT count(DISTINCT user_id) FROM user_counters
        WHERE campaign_id IN (SELECT campaign_id FROM live) AND used > 0),
       (SELECT count(*) FROM coupons c
        WHERE c.campaign_id IN (SELECT campaign_id FROM live) AND c.expired_at IS NULL
          AND NOT EXISTS (SELECT FROM redemptions r WHERE r.coupon_id = c.coupon_id)),
       (SELECT count(*) FROM open_intents), (SELECT count(*) FROM live)
