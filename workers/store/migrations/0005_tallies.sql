-- Tallies: how many intents came to which end, and how many coupons they issued or used. Written in the
-- transaction of each batch, so they are what the tables hold through any kill, and need no counting of
-- millions of rows when somebody asks.

SET LOCAL search_path = tidegate;

CREATE TABLE tallies (
    slot        smallint NOT NULL,  -- of the writing connection, so that two batches meet at no row
    campaign_id text NOT NULL,      -- '': of a campaign that does not exist
    kind        text NOT NULL CHECK (kind IN ('order', 'issuance', 'bulk')),
    reason      text NOT NULL,      -- the refusal; '': committed
    intents     bigint NOT NULL CHECK (intents >= 0),
    coupons     bigint NOT NULL CHECK (coupons >= 0),  -- redeemed by orders; issued by all others
    PRIMARY KEY (slot, campaign_id, kind, reason)
) WITH (fillfactor = 50);  -- a row is changed by each batch: its next version lies beside it

INSERT INTO tallies (slot, campaign_id, kind, reason, intents, coupons)
SELECT 0, coalesce(c.campaign_id, ''), i.kind, coalesce(o.reason, ''), count(*),
       count(*) FILTER (WHERE o.reason IS NULL AND (i.kind = 'issuance' OR r.order_id IS NOT NULL))
FROM intents i
JOIN outcomes o USING (intent_id)
LEFT JOIN campaigns c USING (campaign_id)
LEFT JOIN redemptions r ON r.order_id = i.intent_id
GROUP BY 2, 3, 4;

INSERT INTO tallies (slot, campaign_id, kind, reason, intents, coupons)
SELECT 0, campaign_id, 'bulk', '', 0, count(*)
FROM coupons c WHERE NOT EXISTS (SELECT FROM intents i WHERE i.intent_id = c.coupon_id)
GROUP BY campaign_id;

GRANT SELECT ON tallies TO tidegate_worker, tidegate_auditor;
GRANT INSERT ON tallies TO tidegate_worker;
GRANT UPDATE (intents, coupons) ON tallies TO tidegate_worker;
