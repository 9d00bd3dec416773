-- load_read --
-- One look at the load: the oldest open intent that may be claimed, how long its hint is overdue, how
-- full the server is, and what level an operator ordered. A few index entries whatever is open: `since`
-- spares it the entries that claims left dead at the old end of the index. Intents are counted one by
-- one only as long as they are few; beyond that the server's own running estimate has to do.
WITH oldest AS MATERIALIZED (
    SELECT intent_id, accepted_at, dispatch_after FROM open_intents
    WHERE intent_id >= %(since)s AND (retry_after IS NULL OR retry_after <= now())
    ORDER BY intent_id LIMIT 1
), few AS MATERIALIZED (
    SELECT count(*) AS found
    FROM (
        SELECT FROM open_intents WHERE intent_id >= %(since)s LIMIT %(counted_max)s
    ) AS first_ones
)
SELECT o.intent_id,
       1000 * extract(epoch FROM clock_timestamp() - o.accepted_at)::float8,
       1000 * extract(epoch FROM clock_timestamp() - o.dispatch_after)::float8,
       CASE WHEN few.found < %(counted_max)s THEN few.found
            ELSE greatest(few.found, pg_stat_get_live_tuples('open_intents'::regclass)) END,
       (SELECT sum(numbackends) FROM pg_stat_database)::float8
           / greatest(1, current_setting('max_connections')::int
                         - current_setting('superuser_reserved_connections')::int),
       l.level, l.reason, l.ordered_at, l.until
FROM few
LEFT JOIN oldest o ON true
LEFT JOIN level_orders l ON l.until IS NULL OR l.until > clock_timestamp()

-- balances_read --
-- What is left of everything that a campaign not yet over can run out of, and whether it is scarce: so
-- many units, or coupons of the greatest value, at most.
SELECT 'stock:' || s.campaign_id || ':' || s.sku, s.version, s.available, s.reserved,
       s.available <= %(scarce_max)s
FROM stock s JOIN campaigns c USING (campaign_id)
WHERE c.ends_at > clock_timestamp()
UNION ALL
SELECT 'budget:' || b.campaign_id, b.version, b.budget - b.reserved - b.spent, b.reserved,
       b.budget - b.reserved - b.spent <= c.coupon_amount::numeric * %(scarce_max)s
FROM budgets b JOIN campaigns c USING (campaign_id)
WHERE c.ends_at > clock_timestamp() AND c.coupon_amount IS NOT NULL
