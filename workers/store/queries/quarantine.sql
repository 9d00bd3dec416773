-- quarantine_list --
-- What could not be processed, the latest first, and what became of its retry.
SELECT q.intent_id, i.kind, i.gateway_id, i.user_id, i.campaign_id, i.body, q.error, q.attempts,
       i.accepted_at, q.quarantined_at, q.retried_as,
       CASE WHEN q.retried_as IS NULL THEN NULL WHEN d.intent_id IS NULL THEN 'accepted'
            ELSE coalesce(d.reason, 'committed') END
FROM quarantine q
LEFT JOIN intents i ON i.intent_id = q.intent_id
LEFT JOIN outcomes d ON d.intent_id = q.retried_as
WHERE %(intent_id)s::uuid IS NULL OR q.intent_id = %(intent_id)s
ORDER BY q.quarantined_at DESC, q.intent_id DESC LIMIT %(count_max)s

-- quarantined_lock --
-- One retry at a time; the journal row is gone where it was pruned.
SELECT q.retried_as, i.kind, i.gateway_id, i.user_id, i.campaign_id, i.body
FROM quarantine q LEFT JOIN intents i USING (intent_id)
WHERE q.intent_id = %(intent_id)s FOR UPDATE OF q

-- retry_record --
UPDATE quarantine SET retried_as = %(retried_as)s WHERE intent_id = %(intent_id)s
