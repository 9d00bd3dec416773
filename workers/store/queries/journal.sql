-- journal_append_many --
-- The acceptance: keys, intents and open intents in one statement, which is one commit. Rows arrive
-- sorted by digest, and keys are inserted in that order: two intakes that replay the same keys wait
-- for each other instead of deadlocking. What is not returned had a known key.
WITH posted AS (
    SELECT * FROM unnest(
        %(digests)b::uuid[], %(intent_ids)b::uuid[], %(fingerprints)b::uuid[], %(kinds)b::text[],
        %(gateway_ids)b::text[], %(keys)b::text[], %(user_ids)b::text[], %(campaign_ids)b::text[],
        %(bodies)b::text[]
    ) AS t(digest, intent_id, fingerprint, kind, gateway_id, idempotency_key, user_id, campaign_id, body)
), keyed AS (
    INSERT INTO idempotency_keys (digest, intent_id, fingerprint)
    SELECT digest, intent_id, fingerprint FROM posted ORDER BY digest
    ON CONFLICT DO NOTHING
    RETURNING intent_id
), journalled AS (
    INSERT INTO intents
        (intent_id, kind, gateway_id, idempotency_key, user_id, campaign_id, body, accepted_at)
    SELECT intent_id, kind, gateway_id, idempotency_key, user_id, campaign_id, body::json, now()
    FROM posted JOIN keyed USING (intent_id)
), opened AS (
    INSERT INTO open_intents (intent_id, accepted_at, dispatch_after)
    SELECT intent_id, now(), now() + %(dispatch_after_ms)s * interval '1 ms' FROM keyed
)
SELECT intent_id, now() FROM keyed

-- keys_find_many --
-- Where commits wait for a standby, so does the word that a key is known: what a commit that was kept
-- from waiting has left is to be seen by everybody, and a receipt must outlive the server.
SELECT digest, intent_id, fingerprint, CASE
    WHEN current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()
    THEN pg_logical_emit_message(true, 'tidegate', '') END IS NULL AS alone
FROM idempotency_keys WHERE digest = ANY(%(digests)b::uuid[])
