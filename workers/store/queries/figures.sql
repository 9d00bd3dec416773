-- tallies_read --
SELECT campaign_id, kind, reason, sum(intents)::bigint, sum(coupons)::bigint
FROM tallies GROUP BY campaign_id, kind, reason

-- open_read --
-- All are counted: who adds them to the decided ones wants the very number of accepted intents.
SELECT count(*), extract(epoch FROM clock_timestamp() - (
    SELECT accepted_at FROM open_intents ORDER BY intent_id LIMIT 1))::float8,
       (SELECT count(*) FROM quarantine WHERE retried_as IS NULL)
FROM open_intents

-- campaigns_read --
-- Those of the allow-list, or the newest where there is none. Who gives no coupons out has no budget.
SELECT campaign_id, currency,
       issuance_paused_at IS NOT NULL
           AND (issuance_resume_at IS NULL OR issuance_resume_at > clock_timestamp()),
       budget, budget - reserved - spent, reserved, spent
FROM campaigns LEFT JOIN budgets USING (campaign_id)
WHERE %(campaign_ids)s::text[] IS NULL OR campaign_id = ANY(%(campaign_ids)s)
ORDER BY starts_at DESC, campaign_id LIMIT %(campaigns_max)s

-- stock_read --
-- The first items of each campaign: a series for each of ten thousand helps nobody.
SELECT campaign_id, sku, initial, available, reserved, sold
FROM unnest(%(campaign_ids)s::text[]) AS c(campaign_id) CROSS JOIN LATERAL (
    SELECT sku, initial, available, reserved, sold FROM stock s WHERE s.campaign_id = c.campaign_id
    ORDER BY sku LIMIT %(skus_max)s) AS s
