-- entries_claim --
-- Take what is due, oldest first, up to so many for each endpoint, until the lease ends: then it is
-- due again. What something earlier of the same subject is before of is put off instead of being
-- looked at each time; it is due at once when that is settled.
WITH room AS (
    SELECT * FROM unnest(%(endpoint_ids)b::bigint[], %(counts)b::bigint[])
        AS r(endpoint_id, count_max)
), due AS MATERIALIZED (
    SELECT o.entry_id, o.endpoint_id, o.subject_id
    FROM room r CROSS JOIN LATERAL (
        SELECT entry_id, endpoint_id, subject_id FROM outbox
        WHERE endpoint_id = r.endpoint_id AND settled_at IS NULL AND due_at <= now()
        ORDER BY due_at, entry_id LIMIT r.count_max
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS o
), judged AS MATERIALIZED (
    SELECT d.entry_id, (
        SELECT max(e.due_at) FROM outbox e
        WHERE (e.subject_id, e.endpoint_id) = (d.subject_id, d.endpoint_id)
          AND e.entry_id < d.entry_id AND e.settled_at IS NULL
    ) AS blocked_until
    FROM due d
), put_off AS (
    UPDATE outbox o SET due_at = greatest(j.blocked_until, now() + interval '1 s')
    FROM judged j
    WHERE o.entry_id = j.entry_id AND o.settled_at IS NULL AND j.blocked_until IS NOT NULL
)
UPDATE outbox o
SET due_at = clock_timestamp() + %(lease_ms)s * interval '1 ms', lease_id = %(lease_id)s
FROM judged j
WHERE o.entry_id = j.entry_id AND o.settled_at IS NULL AND j.blocked_until IS NULL
RETURNING o.entry_id, o.endpoint_id, o.subject_id, o.event, o.occurred_at, o.data, o.attempts,
    extract(epoch FROM clock_timestamp() - o.queued_at)::double precision

-- probes_take --
-- Of failing endpoints those whose next probe is due, for one relay alone.
WITH free AS (
    SELECT endpoint_id FROM webhook_endpoints
    WHERE endpoint_id = ANY(%(endpoint_ids)b::bigint[]) AND disabled_at IS NULL
      AND coalesce(not_before, '-infinity') <= now()
      AND EXISTS (SELECT FROM outbox o WHERE o.endpoint_id = webhook_endpoints.endpoint_id
                  AND o.settled_at IS NULL AND o.due_at <= now())
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhook_endpoints e SET not_before = clock_timestamp() + %(lease_ms)s * interval '1 ms'
FROM free f WHERE e.endpoint_id = f.endpoint_id
RETURNING e.endpoint_id

-- probes_give_back --
-- Nothing of theirs could be sent: what is due waits for something earlier of its subject, and was put
-- off for it. What is due next is looked at soon.
UPDATE webhook_endpoints SET not_before = clock_timestamp() + %(pause_ms)s * interval '1 ms'
WHERE endpoint_id = ANY(%(endpoint_ids)b::bigint[])

-- journal_read --
-- What the resource of an intent does not say of it.
SELECT intent_id, idempotency_key FROM intents WHERE intent_id = ANY(%(intent_ids)b::uuid[])

-- deliveries_read --
-- What an intent's endpoints were told, or are to be told, in its order. Nothing is sent to an endpoint
-- that is disabled, and nothing sooner than a failing one allows.
SELECT o.event, o.endpoint_id, e.url, e.disabled_reason,
    CASE WHEN o.dead THEN 'given_up' WHEN o.settled_at IS NOT NULL THEN 'delivered' ELSE 'waiting' END,
    o.attempts, o.settled_at,
    CASE WHEN o.settled_at IS NULL AND e.disabled_at IS NULL
        THEN greatest(o.due_at, e.not_before) END,
    o.last_error
FROM outbox o JOIN webhook_endpoints e USING (endpoint_id)
WHERE o.subject_id = %(intent_id)s ORDER BY o.entry_id

-- results_record --
-- A delivery counts whoever made it; a failure only while the lease is the teller's. What was not even
-- attempted keeps what its last attempt left. What comes next of a settled subject is due now.
WITH told AS (
    SELECT *, NOT (fate = 'again' AND error IS NULL) AS attempted
    FROM unnest(%(entry_ids)b::bigint[], %(lease_ids)b::uuid[], %(fates)b::text[],
                         %(counted)b::bigint[], %(delays_ms)b::bigint[],
                         %(status_codes)b::bigint[], %(errors)b::text[])
        AS t(entry_id, lease_id, fate, counted, delay_ms, status_code, error)
), recorded AS (
    UPDATE outbox o
    SET attempts = o.attempts + t.counted, lease_id = NULL, dead = t.fate = 'dead',
        status_code = CASE WHEN t.attempted THEN nullif(t.status_code, 0) ELSE o.status_code END,
        last_error = CASE WHEN t.attempted THEN t.error ELSE o.last_error END,
        settled_at = CASE WHEN t.fate <> 'again' THEN clock_timestamp() END,
        due_at = clock_timestamp() + t.delay_ms * interval '1 ms'
    FROM told t
    WHERE o.entry_id = t.entry_id AND o.settled_at IS NULL
      AND (o.lease_id = t.lease_id OR t.fate = 'delivered')
    RETURNING o.entry_id, o.subject_id, o.endpoint_id, o.settled_at
)
UPDATE outbox o SET due_at = now()
FROM recorded r
WHERE r.settled_at IS NOT NULL AND (o.subject_id, o.endpoint_id) = (r.subject_id, r.endpoint_id)
  AND o.entry_id > r.entry_id AND o.settled_at IS NULL AND o.lease_id IS NULL AND o.attempts = 0
  AND o.due_at > now()

-- old_give_up --
-- What is too old is given up, also of endpoints that are disabled, from the oldest on.
UPDATE outbox SET settled_at = clock_timestamp(), dead = true, lease_id = NULL,
    last_error = coalesce(last_error, 'not delivered in time')
WHERE settled_at IS NULL AND entry_id IN (
    SELECT entry_id FROM outbox WHERE settled_at IS NULL
    ORDER BY entry_id LIMIT %(count_max)s)
  AND queued_at < now() - %(older_s)s * interval '1 s' AND due_at <= now()

-- settled_prune --
DELETE FROM outbox WHERE (subject_id, endpoint_id, entry_id) IN (
    SELECT subject_id, endpoint_id, entry_id FROM outbox
    WHERE settled_at < now() - %(older_s)s * interval '1 s'
      AND (NOT dead OR settled_at < now() - %(dead_older_s)s * interval '1 s')
    ORDER BY settled_at LIMIT %(count_max)s)

-- level_note --
-- Once for each change, whoever notes it: to every endpoint that wants it. Returns how many. While an
-- operator's order stands nothing but its level holds. Once it has ended the governor's word holds
-- again, from now on, however long the governor has said it. Else an older word than the last is none.
WITH standing AS MATERIALIZED (
    SELECT level FROM level_orders WHERE until IS NULL OR until > clock_timestamp()
), noted AS MATERIALIZED (
    SELECT level, since_ms, reason = 'operator' AND %(reason)s::text <> 'operator' AS order_ended
    FROM noted_level WHERE level <> %(level)s FOR UPDATE
), change AS MATERIALIZED (
    SELECT level AS before, greatest(since_ms + 1, CASE
        WHEN order_ended THEN round(1000 * extract(epoch FROM clock_timestamp()))::bigint
        ELSE %(since_ms)s::bigint END) AS since_ms
    FROM noted
    WHERE CASE WHEN %(reason)s::text = 'operator' THEN EXISTS (
                   SELECT FROM standing s WHERE s.level = %(level)s)
               ELSE NOT EXISTS (SELECT FROM standing)
                   AND (order_ended OR since_ms < %(since_ms)s::bigint) END
), renoted AS (
    UPDATE noted_level n SET level = %(level)s, since_ms = c.since_ms, reason = %(reason)s
    FROM change c
)
INSERT INTO outbox (endpoint_id, subject_id, event, occurred_at, data)
SELECT e.endpoint_id, %(subject_id)s, %(event)s, to_timestamp(c.since_ms / 1000.0),
    json_build_object('level', %(level)s::text, 'before', c.before, 'reason', %(reason)s::text,
                      'since', to_timestamp(c.since_ms / 1000.0))
FROM change c CROSS JOIN webhook_endpoints e
WHERE e.disabled_at IS NULL AND %(event)s = ANY(e.events)

-- replayable_count --
SELECT count(*) FROM outbox
WHERE endpoint_id = %(endpoint_id)s AND settled_at IS NOT NULL AND queued_at < %(before)s
  AND (dead OR NOT %(dead_only)s)
  AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
  AND (%(subject_id)s::uuid IS NULL OR subject_id = %(subject_id)s)
  AND (%(event)s::text IS NULL OR event LIKE %(event)s)

-- replay_many --
-- What is settled is queued anew, in its old order and behind what waits; its id, and so its body,
-- stay. `before` keeps a replay from what it has replayed itself.
WITH chosen AS (
    SELECT subject_id, endpoint_id, entry_id FROM outbox
    WHERE endpoint_id = %(endpoint_id)s AND settled_at IS NOT NULL AND queued_at < %(before)s
      AND (dead OR NOT %(dead_only)s)
      AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
      AND (%(subject_id)s::uuid IS NULL OR subject_id = %(subject_id)s)
      AND (%(event)s::text IS NULL OR event LIKE %(event)s)
    ORDER BY entry_id LIMIT %(count_max)s
), taken AS (
    DELETE FROM outbox o USING chosen c
    WHERE (o.subject_id, o.endpoint_id, o.entry_id) = (c.subject_id, c.endpoint_id, c.entry_id)
    RETURNING o.*
)
INSERT INTO outbox (endpoint_id, subject_id, event, occurred_at, data)
SELECT endpoint_id, subject_id, event, occurred_at, data FROM taken ORDER BY entry_id

-- figures_read --
-- What waits, what was given up, and the age in seconds of what waits longest. What is noted for an
-- endpoint that is disabled waits for nobody. Counts only as far as `count_max`: whoever looks every few
-- seconds must not read millions of rows each time. The oldest is no matter of when it is due: what is
-- tried again and again is due late.
SELECT (SELECT count(*) FROM (
            SELECT FROM webhook_endpoints e JOIN outbox o USING (endpoint_id)
            WHERE e.disabled_at IS NULL AND o.settled_at IS NULL
            LIMIT %(count_max)s) AS few),
       (SELECT count(*) FROM (SELECT FROM outbox WHERE dead LIMIT %(count_max)s) AS few),
       coalesce(extract(epoch FROM clock_timestamp() - (
            SELECT o.queued_at FROM webhook_endpoints e JOIN outbox o USING (endpoint_id)
            WHERE e.disabled_at IS NULL AND o.settled_at IS NULL
            ORDER BY o.entry_id LIMIT 1)), 0)::double precision
