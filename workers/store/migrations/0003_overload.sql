-- Overload: what operators order, what the gate must not forget, and a version for the stock that it
-- is told of.

SET LOCAL search_path = tidegate;

-- The level an operator ordered for the whole system; no row: the governor's word holds.
CREATE TABLE level_orders (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    level      text NOT NULL CHECK (level IN ('normal', 'throttled', 'shedding', 'closed')),
    reason     text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    until      timestamptz CHECK (until > ordered_at)  -- null: until it is lifted
);

ALTER TABLE campaigns
    ADD COLUMN issuance_paused_at timestamptz,   -- null: not paused by an operator
    ADD COLUMN issuance_resume_at timestamptz,   -- when the pause ends by itself; null: when lifted
    ADD COLUMN issuance_pause_reason text;

ALTER TABLE merchants
    ADD COLUMN paused_until timestamptz,         -- when a pause ends by itself; null: when lifted
    ADD COLUMN pause_reason text;

-- Which of two readings of a balance is newer: whoever tells the gate of it says the version, and the
-- gate keeps the highest. Kept by triggers, so that no writer can forget it.
ALTER TABLE stock ADD COLUMN version bigint NOT NULL DEFAULT 0;
ALTER TABLE budgets ADD COLUMN version bigint NOT NULL DEFAULT 0;

CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER versioned BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION next_version();
CREATE TRIGGER versioned BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION next_version();

-- How far each gateway's calendar of appointments may have been handed out. A gate that lost its
-- memory begins there, so that no window is given twice.
CREATE TABLE calendars (
    gateway_id  text PRIMARY KEY,
    handed_out_until timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT ON level_orders, calendars TO tidegate_producer, tidegate_worker, tidegate_auditor;
GRANT INSERT, UPDATE ON calendars TO tidegate_worker;
