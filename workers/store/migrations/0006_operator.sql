-- The console: a role that sees what is shown there and pulls the operator's levers, and nothing else;
-- and a lever that takes effect once, however often its call is sent.

SET LOCAL search_path = tidegate;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidegate_operator') THEN
        BEGIN
            CREATE ROLE tidegate_operator NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of the same cluster was migrated at the same moment
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'tidegate_operator', 'MEMBER') THEN
        GRANT tidegate_operator TO CURRENT_USER;
    END IF;
END $$;

GRANT USAGE ON SCHEMA tidegate TO tidegate_operator;
GRANT SELECT ON campaigns, merchants, items, stock, budgets, coupons, redemptions, user_counters,
    intents, open_intents, quarantine, tallies, level_orders, operator_actions TO tidegate_operator;
GRANT INSERT, UPDATE, DELETE ON level_orders TO tidegate_operator;
GRANT UPDATE (issuance_paused_at, issuance_resume_at, issuance_pause_reason) ON campaigns
    TO tidegate_operator;
GRANT UPDATE (paused, paused_until, pause_reason) ON merchants TO tidegate_operator;
GRANT INSERT ON operator_actions TO tidegate_operator;

-- Each key of a caller's is for one pull of one lever.
CREATE UNIQUE INDEX operator_actions_by_key ON operator_actions (actor, (detail ->> 'idempotency_key'))
    WHERE detail ? 'idempotency_key';
