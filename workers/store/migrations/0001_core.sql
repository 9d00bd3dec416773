-- The core: what is sold, what was wished for, what became of it, and the books.
--
-- Promises are constraints here, not checks in the code:
--   a receipt            intents + open_intents in one commit; intents is insert-only
--   never twice          primary keys on intents, outcomes, orders (an order's id is its intent's),
--                        idempotency_keys (digest) and redemptions (coupon)
--   never more           CHECKs on stock, budgets and user_counters
--   all adds up          ledger is append-only, and each statement's deltas sum to zero
-- Foreign keys stand between the tables an operator writes. On the hot path they would cost one
-- look-up per row and say only what the keys above and `tidegate audit` already say.

CREATE SCHEMA IF NOT EXISTS tidegate;
SET LOCAL search_path = tidegate;

-- Roles: what each process may do. Logins are made by the operator and granted these.
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tidegate_producer', 'tidegate_worker', 'tidegate_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of the same cluster was migrated at the same moment
            END;
        END IF;
        IF NOT pg_has_role(current_user, role_name, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
        END IF;
    END LOOP;
END $$;

-- What is sold ------------------------------------------------------------------------------------

CREATE TABLE campaigns (
    campaign_id          text PRIMARY KEY,
    currency             text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    time_zone            text NOT NULL,
    starts_at            timestamptz NOT NULL,
    ends_at              timestamptz NOT NULL CHECK (ends_at > starts_at),
    orders_per_user_max  integer NOT NULL CHECK (orders_per_user_max > 0),
    coupons_per_user_max integer NOT NULL CHECK (coupons_per_user_max >= 0),
    payment_window_ms    bigint NOT NULL CHECK (payment_window_ms > 0),
    coupon_kind          text CHECK (coupon_kind IN ('amount_off', 'percent_off')),
    coupon_amount        bigint CHECK (coupon_amount > 0),
    coupon_percent       integer CHECK (coupon_percent BETWEEN 1 AND 100),
    coupon_minimum_total bigint CHECK (coupon_minimum_total >= 0),
    coupon_skus          text[],
    coupons_valid_from   timestamptz,
    coupons_valid_until  timestamptz CHECK (coupons_valid_until > coupons_valid_from),
    rate_limits          jsonb NOT NULL DEFAULT '{}',
    applied_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT coupon_terms_whole CHECK (
        coupon_kind IS NULL
        OR (coupon_amount IS NOT NULL AND coupon_minimum_total IS NOT NULL AND coupon_skus IS NOT NULL
            AND coupons_valid_from IS NOT NULL AND coupons_valid_until IS NOT NULL
            AND (coupon_kind = 'amount_off') = (coupon_percent IS NULL))
    )
);

CREATE TABLE budgets (
    campaign_id text PRIMARY KEY REFERENCES campaigns,
    budget      bigint NOT NULL,
    reserved    bigint NOT NULL DEFAULT 0,
    spent       bigint NOT NULL DEFAULT 0,
    CONSTRAINT budget_not_exceeded CHECK (reserved >= 0 AND spent >= 0 AND reserved + spent <= budget)
) WITH (fillfactor = 10);  -- one hot row: room for HOT updates on its page between vacuums

CREATE TABLE merchants (
    merchant_id           text PRIMARY KEY,
    orders_per_minute_max integer CHECK (orders_per_minute_max > 0),
    paused                boolean NOT NULL DEFAULT false
);

CREATE TABLE items (
    campaign_id text NOT NULL REFERENCES campaigns,
    sku         text NOT NULL,
    merchant_id text NOT NULL REFERENCES merchants,
    price       bigint NOT NULL CHECK (price >= 0),
    PRIMARY KEY (campaign_id, sku)
);

CREATE TABLE stock (
    campaign_id text NOT NULL,
    sku         text NOT NULL,
    initial     bigint NOT NULL,
    available   bigint NOT NULL,
    reserved    bigint NOT NULL DEFAULT 0,
    sold        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_id, sku),
    FOREIGN KEY (campaign_id, sku) REFERENCES items,
    CONSTRAINT stock_not_oversold CHECK (available >= 0 AND reserved >= 0 AND sold >= 0),
    CONSTRAINT stock_adds_up CHECK (initial = available + reserved + sold)
) WITH (fillfactor = 10);

-- Changes of stock by the operator, each applied once however often the file is.
CREATE TABLE stock_changes (
    campaign_id text NOT NULL,
    change_id   text NOT NULL,
    sku         text NOT NULL,
    delta       bigint NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, change_id, sku),
    FOREIGN KEY (campaign_id, sku) REFERENCES items
);

-- Who may ask -------------------------------------------------------------------------------------

CREATE TABLE gateways (
    gateway_id text PRIMARY KEY,
    scopes     text[] NOT NULL,
    rate       double precision CHECK (rate > 0),   -- intents a second; null: no limit of its own
    burst      integer CHECK (burst > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE TABLE gateway_keys (
    key_id     text PRIMARY KEY,
    gateway_id text NOT NULL REFERENCES gateways,
    key_hash   bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),  -- sha256; the key is shown once
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE TABLE operator_actions (
    action_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    acted_at  timestamptz NOT NULL DEFAULT now(),
    actor     text NOT NULL,
    action    text NOT NULL,
    subject   text NOT NULL,
    reason    text,
    detail    jsonb NOT NULL DEFAULT '{}'
);

-- What was wished for -----------------------------------------------------------------------------

CREATE TABLE idempotency_keys (
    digest      uuid PRIMARY KEY,  -- of gateway, kind, user and key; a uuid is 16 bytes by value
    intent_id   uuid NOT NULL,
    fingerprint uuid NOT NULL      -- of the intent as decoded
);

CREATE TABLE intents (
    intent_id       uuid NOT NULL PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('order', 'issuance')),
    gateway_id      text NOT NULL,
    idempotency_key text NOT NULL,
    user_id         text NOT NULL,
    campaign_id     text NOT NULL,
    body            json NOT NULL,
    accepted_at     timestamptz NOT NULL
) PARTITION BY RANGE (intent_id);

-- Small and hot: inserted with the intent, deleted with its outcome.
CREATE TABLE open_intents (
    intent_id      uuid PRIMARY KEY,
    accepted_at    timestamptz NOT NULL,
    dispatch_after timestamptz NOT NULL,
    attempts       smallint NOT NULL DEFAULT 0,  -- failures of its own, alone, while others committed
    retry_after    timestamptz,                  -- not claimed before: set after such a failure
    last_error     text
) WITH (
    fillfactor = 70,
    -- A queue in a table lives by its vacuum: dead rows at the old end are what a claim wades through.
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 50000
);

-- Batches at work, written and committed before the work: a row that outlives its worker says which
-- intents were in its hands when it died.
CREATE TABLE claims (
    batch_id   uuid PRIMARY KEY,
    worker     text NOT NULL,
    intent_ids uuid[] NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What became of it -------------------------------------------------------------------------------

CREATE TABLE outcomes (
    intent_id  uuid NOT NULL PRIMARY KEY,
    reason     text,  -- the refusal; null: committed
    decided_at timestamptz NOT NULL
) PARTITION BY RANGE (intent_id);

CREATE TABLE orders (
    order_id         uuid NOT NULL PRIMARY KEY,  -- the intent's id
    user_id          text NOT NULL,
    campaign_id      text NOT NULL,
    status           text NOT NULL CHECK (status IN ('awaiting_payment', 'confirmed', 'expired', 'cancelled')),
    total            bigint NOT NULL CHECK (total >= 0),
    discount         bigint NOT NULL CHECK (discount BETWEEN 0 AND total),
    payable          bigint NOT NULL CHECK (payable = total - discount),
    currency         text NOT NULL,
    coupon_id        uuid,
    payment_deadline timestamptz,
    batch_id         uuid NOT NULL,
    created_at       timestamptz NOT NULL,
    CHECK (status <> 'awaiting_payment' OR payment_deadline IS NOT NULL)
) PARTITION BY RANGE (order_id);
CREATE INDEX orders_awaiting_payment ON orders (payment_deadline) WHERE status = 'awaiting_payment';

CREATE TABLE order_lines (
    order_id   uuid NOT NULL,
    sku        text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_price bigint NOT NULL CHECK (unit_price >= 0),
    PRIMARY KEY (order_id, sku)
) PARTITION BY RANGE (order_id);

CREATE TABLE payments (
    order_id    uuid NOT NULL,
    reference   text NOT NULL,
    amount      bigint NOT NULL,
    status      text NOT NULL CHECK (status IN ('accepted', 'refund_due')),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, reference)
);
-- However payments race, one at most pays the order.
CREATE UNIQUE INDEX payments_accepted_once ON payments (order_id) WHERE status = 'accepted';

CREATE TABLE coupons (
    coupon_id   uuid PRIMARY KEY,  -- the issuing intent's id, where there was one
    campaign_id text NOT NULL,
    user_id     text NOT NULL,
    value       bigint NOT NULL CHECK (value >= 0),  -- what it holds in the budget while unredeemed
    issued_at   timestamptz NOT NULL,
    expired_at  timestamptz
) WITH (fillfactor = 90);
CREATE INDEX coupons_by_user ON coupons (user_id);

CREATE TABLE redemptions (
    coupon_id   uuid PRIMARY KEY,  -- at most one order holds a coupon
    order_id    uuid NOT NULL,
    redeemed_at timestamptz NOT NULL
);

CREATE TABLE user_counters (
    campaign_id text NOT NULL,
    user_id     text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('order', 'issuance')),
    used        integer NOT NULL,
    max         integer NOT NULL,
    PRIMARY KEY (campaign_id, user_id, kind),
    CONSTRAINT user_limit_not_exceeded CHECK (used >= 0 AND used <= max)
) WITH (fillfactor = 80);

CREATE TABLE quarantine (
    intent_id      uuid PRIMARY KEY,
    error          text NOT NULL,
    attempts       integer NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retried_as     uuid  -- the fresh intent of a retry: the told outcome of the first one stands
);

-- The books ---------------------------------------------------------------------------------------

CREATE TABLE ledger (
    entry_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id    uuid NOT NULL,
    account     text NOT NULL,
    delta       bigint NOT NULL CHECK (delta <> 0),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON intents
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outcomes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The unit of an account is all but its last part: stock:{campaign}:{sku}, budget:{campaign}.
CREATE FUNCTION unit_of(account text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left(account, length(account) - strpos(reverse(account), ':'));

CREATE FUNCTION require_balance() RETURNS trigger LANGUAGE plpgsql SET search_path = tidegate AS $$
DECLARE unbalanced text;
BEGIN
    SELECT unit_of(account) INTO unbalanced FROM entered
    GROUP BY batch_id, unit_of(account) HAVING sum(delta) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger entries of % do not sum to zero', unbalanced USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- A batch enters all its movements in one statement, so a statement is what has to balance.
CREATE TRIGGER balanced AFTER INSERT ON ledger REFERENCING NEW TABLE AS entered
    FOR EACH STATEMENT EXECUTE FUNCTION require_balance();

-- An order goes only where its life allows (see workers.domain.lifecycle), and keeps what was sold.
CREATE FUNCTION require_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.order_id, OLD.user_id, OLD.campaign_id, OLD.total, OLD.discount, OLD.currency, OLD.batch_id)
       IS DISTINCT FROM
       (NEW.order_id, NEW.user_id, NEW.campaign_id, NEW.total, NEW.discount, NEW.currency, NEW.batch_id)
       OR NOT (OLD.status = NEW.status
               OR OLD.status = 'awaiting_payment'
               OR (OLD.status = 'confirmed' AND NEW.status = 'cancelled')) THEN
        RAISE EXCEPTION 'order %: % to % is not a transition', OLD.order_id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER transition BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION require_transition();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Growth ------------------------------------------------------------------------------------------
-- Journal, outcomes, orders and lines only grow. Ids are UUIDv7, so a day's rows are a range of ids:
-- one partition a day keeps indexes small and lets `tidegate prune` drop a day instead of deleting it.

CREATE FUNCTION uuid7_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;

CREATE FUNCTION uuid7_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);

-- Make the partitions of `days` days from `first` on; say how many were made. A day whose rows have
-- already gone to the default partition stays there: it serves, only larger.
CREATE FUNCTION ensure_partitions(first date, days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = tidegate AS $$
DECLARE
    parent text; day date; partition text; made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tidegate.partitions'));
    FOREACH parent IN ARRAY ARRAY['intents', 'outcomes', 'orders', 'order_lines'] LOOP
        FOR day IN SELECT first + n FROM generate_series(0, days - 1) AS n LOOP
            partition := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(format('tidegate.%I', partition)) IS NOT NULL;
            BEGIN
                EXECUTE format(
                    'CREATE TABLE tidegate.%I PARTITION OF tidegate.%I FOR VALUES FROM (%L) TO (%L)',
                    partition, parent,
                    uuid7_floor(day::timestamp AT TIME ZONE 'UTC'),
                    uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC'));
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'partition % not made: its rows are in the default partition', partition;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- How far `tidegate prune` has removed journal, outcomes and keys: the audit asks no further back.
CREATE TABLE retention (
    whole         boolean PRIMARY KEY DEFAULT true CHECK (whole),  -- one row
    pruned_before uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO retention DEFAULT VALUES;

CREATE TABLE intents_default PARTITION OF intents DEFAULT;
CREATE TABLE outcomes_default PARTITION OF outcomes DEFAULT;
CREATE TABLE orders_default PARTITION OF orders DEFAULT;
CREATE TABLE order_lines_default PARTITION OF order_lines DEFAULT;
SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date, 8);

-- What an auditor sees ----------------------------------------------------------------------------

CREATE SCHEMA IF NOT EXISTS audit;

CREATE VIEW audit.intents AS
SELECT i.intent_id, i.kind, i.gateway_id, i.idempotency_key, i.user_id, i.campaign_id, i.accepted_at,
       CASE WHEN o.intent_id IS NULL THEN 'accepted' WHEN o.reason IS NULL THEN 'committed' ELSE 'refused' END AS status,
       o.reason, o.decided_at
FROM tidegate.intents i LEFT JOIN tidegate.outcomes o USING (intent_id);

CREATE VIEW audit.orders AS
SELECT order_id, order_id AS intent_id, user_id, campaign_id, status, total, discount, payable, currency,
       coupon_id, batch_id, created_at
FROM tidegate.orders;

CREATE VIEW audit.order_lines AS
SELECT l.order_id, o.campaign_id, l.sku, l.quantity, l.unit_price
FROM tidegate.order_lines l JOIN tidegate.orders o USING (order_id);

CREATE VIEW audit.payments AS
SELECT order_id, reference, amount, status, recorded_at FROM tidegate.payments;

CREATE VIEW audit.stock AS
SELECT campaign_id, sku, initial, available, reserved, sold FROM tidegate.stock;

CREATE VIEW audit.coupons AS
SELECT c.coupon_id, c.campaign_id, c.user_id,
       CASE WHEN r.coupon_id IS NOT NULL THEN 'redeemed' WHEN c.expired_at IS NOT NULL THEN 'expired'
            ELSE 'issued' END AS status,
       c.value, p.coupons_valid_until AS valid_until, r.order_id AS redeemed_by_order
FROM tidegate.coupons c
JOIN tidegate.campaigns p USING (campaign_id)
LEFT JOIN tidegate.redemptions r USING (coupon_id);

CREATE VIEW audit.budgets AS
SELECT campaign_id, budget, spent, reserved FROM tidegate.budgets;

CREATE VIEW audit.ledger AS
SELECT entry_id, batch_id, account, delta, recorded_at FROM tidegate.ledger;

CREATE VIEW audit.accounts AS
SELECT format('stock:%s:%s:%s', campaign_id, sku, part.name) AS account, part.balance
FROM tidegate.stock,
     LATERAL (VALUES ('supply', -initial), ('available', available), ('reserved', reserved), ('sold', sold))
         AS part(name, balance)
UNION ALL
SELECT format('budget:%s:%s', campaign_id, part.name), part.balance
FROM tidegate.budgets,
     LATERAL (VALUES ('supply', -budget), ('available', budget - reserved - spent),
                     ('reserved', reserved), ('spent', spent)) AS part(name, balance);

-- Who may do what ---------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA tidegate TO tidegate_producer, tidegate_worker, tidegate_auditor;
GRANT USAGE ON SCHEMA audit TO tidegate_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA audit TO tidegate_auditor;

-- The producer journals and reads; it can neither sell nor give, and never changes what it wrote.
GRANT INSERT ON idempotency_keys, intents, open_intents TO tidegate_producer;
GRANT SELECT ON idempotency_keys, intents, open_intents, outcomes, orders, order_lines, payments,
    coupons, redemptions, campaigns, merchants, items, stock, budgets, gateways, gateway_keys
    TO tidegate_producer;

GRANT SELECT ON ALL TABLES IN SCHEMA tidegate TO tidegate_worker;
REVOKE SELECT ON gateway_keys FROM tidegate_worker;
GRANT INSERT ON outcomes, orders, order_lines, payments, coupons, redemptions, user_counters, claims,
    quarantine, ledger TO tidegate_worker;
GRANT UPDATE (dispatch_after, attempts, retry_after, last_error) ON open_intents TO tidegate_worker;
GRANT UPDATE (available, reserved, sold) ON stock TO tidegate_worker;
GRANT UPDATE (reserved, spent) ON budgets TO tidegate_worker;
GRANT UPDATE (used, max) ON user_counters TO tidegate_worker;
GRANT UPDATE (status, payment_deadline) ON orders TO tidegate_worker;
GRANT UPDATE (status) ON payments TO tidegate_worker;
GRANT UPDATE (value, expired_at) ON coupons TO tidegate_worker;
GRANT UPDATE (retried_as) ON quarantine TO tidegate_worker;
GRANT DELETE ON open_intents, claims, redemptions TO tidegate_worker;

GRANT SELECT ON ALL TABLES IN SCHEMA tidegate TO tidegate_auditor;
REVOKE SELECT ON gateway_keys FROM tidegate_auditor;

REVOKE ALL ON FUNCTION ensure_partitions(date, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions(date, integer) TO tidegate_worker;
