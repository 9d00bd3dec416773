-- moment_read --
-- The clock, then a transaction id of our own, which is above all that were given out before; and
-- where this snapshot begins not to know: all transactions below have ended.
SELECT now(), pg_current_xact_id()::text::bigint,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- outcomes_count --
-- Outcomes since a decision time, and whether they are from before a later one.
SELECT i.kind, d.reason, d.decided_at < %(settled_until)s, count(*)
FROM outcomes d JOIN intents i USING (intent_id)
WHERE d.decided_at >= %(counted_until)s AND i.campaign_id = %(campaign_id)s
GROUP BY 1, 2, 3

-- stock_read --
SELECT sku, available, initial FROM stock WHERE campaign_id = %(campaign_id)s ORDER BY sku

-- budget_read --
SELECT budget, spent, reserved FROM budgets WHERE campaign_id = %(campaign_id)s
