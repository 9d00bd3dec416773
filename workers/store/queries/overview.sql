-- pauses_read --
-- Whose issuance an operator has paused, of some campaigns.
SELECT campaign_id, issuance_paused_at, issuance_resume_at, issuance_pause_reason
FROM campaigns
WHERE campaign_id = ANY(%(campaign_ids)s) AND issuance_paused_at IS NOT NULL
  AND (issuance_resume_at IS NULL OR issuance_resume_at > clock_timestamp())

-- merchants_read --
-- Those who are paused first: there may be more than anybody wants to see.
SELECT merchant_id, paused AND (paused_until IS NULL OR paused_until > clock_timestamp()) AS is_paused,
       paused_until, pause_reason
FROM merchants ORDER BY 2 DESC, merchant_id LIMIT %(merchants_max)s

-- actions_read --
-- What operators did last, to whatever it was.
SELECT acted_at, actor, action, subject, reason
FROM operator_actions ORDER BY action_id DESC LIMIT %(actions_max)s

-- workers_count --
-- Worker processes that have worked: each holds two connections.
SELECT (count(*) + 1) / 2 FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tidegate-worker'
