-- intent_read --
SELECT kind, gateway_id, idempotency_key, user_id, campaign_id, body, accepted_at
FROM intents WHERE intent_id = %(intent_id)s

-- open_read --
SELECT attempts, last_error, retry_after, dispatch_after FROM open_intents WHERE intent_id = %(intent_id)s

-- claims_read --
-- Batches at work, or dead, that have it in hand.
SELECT batch_id, worker, claimed_at FROM claims
WHERE %(intent_id)s::uuid = ANY(intent_ids) ORDER BY claimed_at

-- outcome_read --
SELECT reason, decided_at FROM outcomes WHERE intent_id = %(intent_id)s

-- order_read --
SELECT status, total, discount, payable, currency, coupon_id, payment_deadline, batch_id, created_at
FROM orders WHERE order_id = %(intent_id)s

-- lines_read --
SELECT sku, quantity, unit_price FROM order_lines WHERE order_id = %(intent_id)s ORDER BY sku

-- payments_read --
SELECT reference, amount, status, recorded_at FROM payments
WHERE order_id = %(intent_id)s ORDER BY recorded_at, reference

-- coupon_read --
SELECT c.coupon_id, c.user_id, c.value, c.issued_at, c.expired_at, p.coupons_valid_until,
       r.order_id, r.redeemed_at
FROM coupons c JOIN campaigns p USING (campaign_id) LEFT JOIN redemptions r USING (coupon_id)
WHERE c.coupon_id = %(coupon_id)s

-- ledger_read --
SELECT account, delta, recorded_at FROM ledger WHERE batch_id = %(batch_id)s ORDER BY entry_id

-- quarantine_read --
SELECT error, attempts, quarantined_at, retried_as FROM quarantine WHERE intent_id = %(intent_id)s

-- retry_of_read --
SELECT intent_id FROM quarantine WHERE retried_as = %(intent_id)s
