-- The outbox: messages committed with what they tell of, and the endpoints they are delivered to.

SET LOCAL search_path = tidegate;

-- Where a gateway wants to hear of outcomes. Its secret is derived from the deployment's master secret
-- and the reference that is kept here: whoever reads this table can sign nothing.
CREATE TABLE webhook_endpoints (
    endpoint_id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id       text NOT NULL REFERENCES gateways,
    url              text NOT NULL,
    events           text[] NOT NULL CHECK (cardinality(events) > 0),
    secret_ref       text NOT NULL,
    old_secret_ref   text,                        -- signs beside it until then
    old_secret_until timestamptz,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at      timestamptz,                 -- null: events are noted and delivered
    disabled_reason  text,                        -- operator, gone, failing, backlog, gateway_revoked
    -- Its health, as the relays find it.
    failures         integer NOT NULL DEFAULT 0,  -- in a row
    failing_since    timestamptz,
    not_before       timestamptz,                 -- nothing is sent sooner
    CHECK ((old_secret_ref IS NULL) = (old_secret_until IS NULL)),
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);
-- What every batch asks: whether a gateway of its intents has an endpoint.
CREATE INDEX webhook_endpoints_enabled ON webhook_endpoints (gateway_id) WHERE disabled_at IS NULL;

CREATE FUNCTION disable_webhooks() RETURNS trigger LANGUAGE plpgsql SET search_path = tidegate AS $$
BEGIN
    UPDATE webhook_endpoints SET disabled_at = clock_timestamp(), disabled_reason = 'gateway_revoked'
    WHERE gateway_id = NEW.gateway_id AND disabled_at IS NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER revoked AFTER UPDATE OF revoked_at ON gateways FOR EACH ROW
    WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION disable_webhooks();

-- One row per event and endpoint. It holds no body: the relay makes it from the journal, the same
-- each time. `subject_id` is the intent, or the nil UUID for what concerns the whole system; what is
-- told of one subject to one endpoint is delivered in the order of `entry_id`.
CREATE TABLE outbox (
    entry_id    bigint GENERATED ALWAYS AS IDENTITY,
    endpoint_id integer NOT NULL,
    subject_id  uuid NOT NULL,
    event       text NOT NULL,
    occurred_at timestamptz NOT NULL,
    data        json,                             -- only of what the journal does not hold
    queued_at   timestamptz NOT NULL DEFAULT now(),  -- its age counts from here: a replay is young
    due_at      timestamptz NOT NULL DEFAULT now(),
    lease_id    uuid,                             -- of the relay that has it in hand, until due_at
    attempts    smallint NOT NULL DEFAULT 0,
    status_code smallint,                         -- of the last answer; null: there was none
    last_error  text,
    settled_at  timestamptz,                      -- null: still to be delivered
    dead        boolean NOT NULL DEFAULT false,   -- settled by giving up
    PRIMARY KEY (subject_id, endpoint_id, entry_id)
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
-- Small: only what is still to be delivered, however much was.
CREATE UNIQUE INDEX outbox_unsettled ON outbox (entry_id) WHERE settled_at IS NULL;
CREATE INDEX outbox_due ON outbox (endpoint_id, due_at, entry_id) WHERE settled_at IS NULL;
CREATE INDEX outbox_settled ON outbox (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX outbox_dead ON outbox (endpoint_id, settled_at) WHERE dead;

-- The level that endpoints were told of last: each change is noted once, whoever notes it.
CREATE TABLE noted_level (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    level    text NOT NULL,
    since_ms bigint NOT NULL,  -- Unix milliseconds
    reason   text NOT NULL     -- 'operator' of an order
);
INSERT INTO noted_level (level, since_ms, reason) VALUES ('normal', 0, '');

GRANT SELECT ON webhook_endpoints, outbox, noted_level TO tidegate_worker, tidegate_auditor;
GRANT INSERT, DELETE ON outbox TO tidegate_worker;
GRANT UPDATE (due_at, lease_id, attempts, status_code, last_error, settled_at, dead)
    ON outbox TO tidegate_worker;
GRANT UPDATE (failures, failing_since, not_before, disabled_at, disabled_reason)
    ON webhook_endpoints TO tidegate_worker;
GRANT UPDATE (level, since_ms, reason) ON noted_level TO tidegate_worker;
