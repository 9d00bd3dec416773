-- endpoint_insert --
INSERT INTO webhook_endpoints (gateway_id, url, events, secret_ref)
VALUES (%(gateway_id)s, %(url)s, %(events)s, %(secret_ref)s)
RETURNING endpoint_id

-- endpoint_lock --
SELECT gateway_id, url, disabled_at IS NOT NULL, secret_ref,
       CASE WHEN old_secret_until > now() THEN old_secret_ref END
FROM webhook_endpoints
WHERE endpoint_id = %(endpoint_id)s FOR NO KEY UPDATE

-- secret_rotate --
UPDATE webhook_endpoints
SET secret_ref = %(secret_ref)s,
    old_secret_ref = CASE WHEN %(overlap_s)s > 0 THEN secret_ref END,
    old_secret_until = CASE WHEN %(overlap_s)s > 0
        THEN clock_timestamp() + %(overlap_s)s * interval '1 s' END
WHERE endpoint_id = %(endpoint_id)s

-- endpoint_disable --
UPDATE webhook_endpoints SET disabled_at = clock_timestamp(), disabled_reason = %(reason)s
WHERE endpoint_id = %(endpoint_id)s AND disabled_at IS NULL

-- endpoint_enable --
-- It starts as if it had never failed.
UPDATE webhook_endpoints
SET disabled_at = NULL, disabled_reason = NULL, failures = 0, failing_since = NULL, not_before = NULL
WHERE endpoint_id = %(endpoint_id)s

-- gateway_revoked_read --
SELECT revoked_at IS NOT NULL FROM gateways WHERE gateway_id = %(gateway_id)s FOR SHARE

-- endpoints_list --
-- With what waits for each, what was given up, and what went wrong last. When a waiting one was
-- attempted is not kept: it is reckoned from its next attempt by the schedule, which has some jitter.
-- Those with an attempt ahead of them are due last, so that a bounded look begins with them.
SELECT e.endpoint_id, e.gateway_id, e.url, e.events, e.created_at, e.disabled_at, e.disabled_reason,
       e.failures, e.failing_since, e.old_secret_until, w.waiting, w.oldest_at, d.dead, t.last_error
FROM webhook_endpoints e
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, min(occurred_at) AS oldest_at FROM (
        SELECT occurred_at FROM outbox o
        WHERE o.endpoint_id = e.endpoint_id AND o.settled_at IS NULL LIMIT %(count_max)s) AS few
) AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS dead FROM (
        SELECT FROM outbox o WHERE o.endpoint_id = e.endpoint_id AND o.dead LIMIT %(count_max)s) AS few
) AS d
LEFT JOIN LATERAL (
    SELECT last_error FROM (
        (SELECT last_error, settled_at AS at FROM outbox o
         WHERE o.endpoint_id = e.endpoint_id AND o.dead ORDER BY settled_at DESC LIMIT 1)
        UNION ALL
        SELECT last_error, least(now(), due_at
            - coalesce((%(delays_s)b::bigint[])[attempts], 0) * interval '1 s')
        FROM (SELECT last_error, due_at, attempts FROM outbox o
              WHERE o.endpoint_id = e.endpoint_id AND o.settled_at IS NULL
              ORDER BY due_at DESC LIMIT %(count_max)s) AS few
        WHERE last_error IS NOT NULL
    ) AS troubles ORDER BY at DESC LIMIT 1
) AS t ON true
WHERE %(endpoint_id)s::integer IS NULL OR e.endpoint_id = %(endpoint_id)s
ORDER BY e.endpoint_id

-- endpoints_read --
-- What a relay works with.
SELECT endpoint_id, gateway_id, url, secret_ref,
       CASE WHEN old_secret_until > now() THEN old_secret_ref END, failures,
       coalesce(greatest(extract(epoch FROM not_before - now()), 0), 0)::double precision,
       coalesce(extract(epoch FROM now() - failing_since), 0)::double precision
FROM webhook_endpoints WHERE disabled_at IS NULL

-- health_record --
UPDATE webhook_endpoints e
SET failures = t.failures,
    failing_since = CASE WHEN t.failures > 0 THEN coalesce(e.failing_since, clock_timestamp()) END,
    not_before = CASE WHEN t.pause_ms > 0
        THEN clock_timestamp() + t.pause_ms * interval '1 ms' END
FROM unnest(%(endpoint_ids)b::bigint[], %(failures)b::bigint[], %(pauses_ms)b::bigint[])
    AS t(endpoint_id, failures, pause_ms)
WHERE e.endpoint_id = t.endpoint_id

-- clock_read --
SELECT clock_timestamp()

-- backlog_count --
-- As far as it matters, and no further.
SELECT count(*) FROM (
    SELECT FROM outbox WHERE endpoint_id = %(endpoint_id)s AND settled_at IS NULL LIMIT %(count_max)s
) AS few
