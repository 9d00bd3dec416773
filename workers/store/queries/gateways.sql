-- gateway_insert --
INSERT INTO gateways (gateway_id, scopes, rate, burst)
VALUES (%(gateway_id)s, %(scopes)s, %(rate)s, %(burst)s)
ON CONFLICT (gateway_id) DO NOTHING

-- gateway_lock --
SELECT revoked_at IS NOT NULL FROM gateways WHERE gateway_id = %(gateway_id)s FOR NO KEY UPDATE

-- key_insert --
INSERT INTO gateway_keys (key_id, gateway_id, key_hash)
VALUES (%(key_id)s, %(gateway_id)s, %(key_hash)s)

-- keys_revoke --
-- Keys of a gateway that are good now: all of them, one, or all but one; from a moment on.
UPDATE gateway_keys SET revoked_at = clock_timestamp() + %(after_s)s * interval '1 s'
WHERE gateway_id = %(gateway_id)s
  AND (%(key_id)s::text IS NULL OR key_id = %(key_id)s) AND key_id IS DISTINCT FROM %(kept)s
  AND (revoked_at IS NULL OR revoked_at > clock_timestamp() + %(after_s)s * interval '1 s')

-- gateway_revoke --
UPDATE gateways SET revoked_at = clock_timestamp()
WHERE gateway_id = %(gateway_id)s AND revoked_at IS NULL

-- quota_set --
UPDATE gateways SET rate = %(rate)s, burst = %(burst)s WHERE gateway_id = %(gateway_id)s

-- gateways_list --
SELECT g.gateway_id, g.scopes, g.rate, g.burst, g.created_at, g.revoked_at,
       coalesce(k.keys, '[]')
FROM gateways g
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_object('key_id', key_id, 'created_at', created_at,
                                      'revoked_at', revoked_at) ORDER BY created_at) AS keys
    FROM gateway_keys WHERE gateway_id = g.gateway_id
) k ON true
ORDER BY g.gateway_id
