-- campaign_limits_read --
SELECT campaign_id, rate_limits::json FROM campaigns

-- gateway_limits_read --
SELECT gateway_id, rate, burst FROM gateways WHERE revoked_at IS NULL
