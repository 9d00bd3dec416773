-- campaign_limits_read --
SELECT campaign_id, rate_limits::json FROM campaigns

-- gateway_limits_read --
SELECT gateway_id, rate, burst FROM gateways WHERE revoked_at IS NULL

-- gateway_of_key --
SELECT k.gateway_id FROM gateway_keys k JOIN gateways g USING (gateway_id)
WHERE k.key_id = %(key_id)s AND (k.revoked_at IS NULL OR k.revoked_at > clock_timestamp())
  AND g.revoked_at IS NULL AND %(scope)s = ANY(g.scopes)
