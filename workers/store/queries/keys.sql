-- keys_read --
-- Every key that is good now: its hash, whose it is, and what it allows.
SELECT k.key_hash, g.gateway_id, g.scopes
FROM gateway_keys k
JOIN gateways g USING (gateway_id)
WHERE k.revoked_at IS NULL AND g.revoked_at IS NULL
