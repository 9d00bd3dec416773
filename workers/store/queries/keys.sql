-- keys_read --
-- Every key that is good now: its hash, whose it is, and what it allows. A key that was rotated out
-- is good until its overlap ends.
SELECT k.key_hash, g.gateway_id, g.scopes
FROM gateway_keys k
JOIN gateways g USING (gateway_id)
WHERE (k.revoked_at IS NULL OR k.revoked_at > clock_timestamp()) AND g.revoked_at IS NULL
