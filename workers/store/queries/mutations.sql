-- keys_not_unique --
-- Deliberate breakages, each of which chaos must notice. Never for a database that anybody needs.
ALTER TABLE tidegate.idempotency_keys DROP CONSTRAINT idempotency_keys_pkey

-- lost_open_intents --
CREATE FUNCTION tidegate.lose_some() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN random() < 0.03 THEN NULL ELSE NEW END;
END $$;
CREATE TRIGGER lose_some BEFORE INSERT ON tidegate.open_intents
    FOR EACH ROW EXECUTE FUNCTION tidegate.lose_some()

-- taken_twice --
ALTER TABLE tidegate.stock DROP CONSTRAINT stock_adds_up;
CREATE FUNCTION tidegate.take_twice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.available := NEW.available - greatest(0, NEW.sold - OLD.sold);
    RETURN NEW;
END $$;
CREATE TRIGGER take_twice BEFORE UPDATE ON tidegate.stock
    FOR EACH ROW WHEN (NEW.sku = 'hot') EXECUTE FUNCTION tidegate.take_twice()

-- oversell --
ALTER TABLE tidegate.stock DROP CONSTRAINT stock_not_oversold

-- coupon_again --
ALTER TABLE tidegate.redemptions DROP CONSTRAINT redemptions_pkey

-- ledger_torn --
CREATE FUNCTION tidegate.lose_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN random() < 0.02 THEN NULL ELSE NEW END;
END $$;
DROP TRIGGER balanced ON tidegate.ledger;
CREATE TRIGGER lose_entry BEFORE INSERT ON tidegate.ledger
    FOR EACH ROW EXECUTE FUNCTION tidegate.lose_entry()

-- outcome_overwritten --
DROP TRIGGER append_only ON tidegate.outcomes;
CREATE FUNCTION tidegate.overwrite_some() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    UPDATE tidegate.outcomes SET reason = 'sold_out' WHERE intent_id = (
        SELECT o.intent_id FROM tidegate.outcomes o
        WHERE o.reason IS NOT NULL AND o.reason <> 'sold_out' LIMIT 1);
    RETURN NULL;
END $$;
CREATE TRIGGER overwrite_some AFTER INSERT ON tidegate.outcomes
    FOR EACH STATEMENT EXECUTE FUNCTION tidegate.overwrite_some()

-- limit_unchecked --
ALTER TABLE tidegate.user_counters DROP CONSTRAINT user_limit_not_exceeded

-- budget_unchecked --
ALTER TABLE tidegate.budgets DROP CONSTRAINT budget_not_exceeded
