-- Counting outcomes as they come (workers.store.observe) asks for those decided since the last look.
-- They are written about in the order of their decision, so a block-range index finds them at next to
-- no cost for the writers: it holds two times for each megabyte of the table.

SET LOCAL search_path = tidegate;

CREATE INDEX outcomes_by_decision ON outcomes USING brin (decided_at) WITH (autosummarize = on);

-- The story of an order reads its batch's movements. Batches are numbered by time, so the same holds.
CREATE INDEX ledger_by_batch ON ledger USING brin (batch_id) WITH (autosummarize = on);
