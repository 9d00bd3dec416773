"""A worker's two connections: one for the batch's transaction, one for what must outlive it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import psycopg

from workers.contract.resource import IntentResource
from workers.domain.intent import Intent
from workers.domain.movements import Movements
from workers.domain.outcome import Outcome
from workers.domain.snapshot import CounterKey, Snapshot
from workers.store import applying, batch, resources
from workers.store.batch import Claim, Deaths
from workers.store.pool import Connection

LOOK_BACK_S = 1.0  # what a claim passed over is found within this
_FIRST = UUID(int=0)
# A plan is made once and kept while tables grow. One made while a table was empty would read all of
# it for each batch, until the next analysis; a batch looks its rows up by key.
_PLANS = "SET enable_seqscan = off"


class BatchSession:
    """Opens its connections when first needed and again after they broke; for one thread.

    Deleted rows leave entries at the old end of the index of open intents until a vacuum, and while a
    long transaction lasts no vacuum removes them. So a claim looks for the oldest from where the one
    before found them, and only once in `LOOK_BACK_S` from the very beginning.

    The second connection records claims with `synchronous_commit` off: a crash of the server may
    lose the last of them, which costs one more attempt at an intent, never an intent.
    """

    def __init__(self, open_connection: Callable[[], Connection], worker: str) -> None:
        self._open = open_connection
        self._worker = worker
        self._batch: Connection | None = None
        self._record: Connection | None = None
        self._ended: list[UUID] = []  # batches that failed while their record could not be removed
        self._since = _FIRST
        self._look_back_at = 0.0  # of the monotonic clock

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a batch; on any error roll back, or drop the connection where that is not to be had."""
        try:
            yield
            if self._batch is not None and self._in_transaction(self._batch):
                self._batch.commit()  # nothing was claimed, so nothing was written
        except BaseException:
            self._roll_back()
            raise

    def claim(self, hinted: Sequence[UUID], limit: int) -> Claim:
        """See `batch.begin_and_claim`."""
        if time.monotonic() >= self._look_back_at:
            self._since = _FIRST
            self._look_back_at = time.monotonic() + LOOK_BACK_S
        claim = self._claim(hinted, limit)
        if limit and claim.intents:
            self._since = min((i.intent_id for i in claim.intents), key=attrgetter("int"))
        return claim

    def _claim(self, hinted: Sequence[UUID], limit: int) -> Claim:
        connection = self._live_batch()
        try:
            return batch.begin_and_claim(connection, hinted, limit, self._since)
        except psycopg.OperationalError:
            if not connection.closed:
                raise
        # It had died while idle, as in a failover: nothing was begun on it.
        return batch.begin_and_claim(self._live_batch(), hinted, limit, self._since)

    def record_claim(self, batch_id: UUID, intent_ids: Sequence[UUID]) -> dict[UUID, Deaths]:
        """See `batch.record_claim`; once more if its connection had died while idle."""
        try:
            return self._record_claim(batch_id, intent_ids)
        except psycopg.OperationalError:
            if self._record is None or not self._record.closed:
                raise
        return self._record_claim(batch_id, intent_ids)

    def _record_claim(self, batch_id: UUID, intent_ids: Sequence[UUID]) -> dict[UUID, Deaths]:
        if self._record is None or self._record.closed:
            self._record = self._open()
            self._record.execute("SET synchronous_commit = off")
        if self._ended:
            batch.forget_claims(self._record, self._ended)
            self._ended = []
        return batch.record_claim(self._record, batch_id, self._worker, intent_ids)

    def forget_claim(self, batch_id: UUID) -> None:
        """Say that a batch ended without committing; at the next claim if it cannot be said now."""
        self._ended.append(batch_id)
        with contextlib.suppress(psycopg.Error):
            if self._record is not None and not self._record.closed:
                batch.forget_claims(self._record, self._ended)
                self._ended = []

    def gather(self, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]:
        """See `batch.gather`."""
        return batch.gather(self._working(), intents)

    def apply_and_commit(
        self,
        batch_id: UUID,
        outcomes: Sequence[Outcome],
        moved: Movements,
        decided_at: datetime,
        *,
        counted: Container[CounterKey],
        before_commit: Callable[[], None],
    ) -> None:
        """See `applying.apply_and_commit`."""
        applying.apply_and_commit(
            self._working(),
            batch_id,
            outcomes,
            moved,
            decided_at,
            counted=counted,
            before_commit=before_commit,
        )

    def record_failure(
        self, intent_id: UUID, error: str, *, counted: bool, pause_ms: int, failures_max: int
    ) -> int:
        """See `batch.record_failure`; committed at once."""
        return batch.record_failure(
            self._live_batch(),
            intent_id,
            error,
            counted=counted,
            pause_ms=pause_ms,
            failures_max=failures_max,
        )

    def record_quarantine(self, intent_id: UUID, error: str, attempts: int) -> None:
        """See `batch.record_quarantine`; commits with the batch."""
        batch.record_quarantine(self._working(), intent_id, error, attempts)

    def decided(self, intent_ids: Sequence[UUID]) -> list[IntentResource]:
        """Read which of these intents have an outcome, whoever committed it."""
        found = resources.read_many(self._live_batch(), intent_ids)
        return [resource for resource in found.values() if resource.decided_at is not None]

    def close(self) -> None:
        """Close both connections."""
        for connection in (self._batch, self._record):
            if connection is not None:
                connection.close()
        self._batch = self._record = None

    def _live_batch(self) -> Connection:
        if self._batch is None or self._batch.closed:
            self._batch = self._open()
            self._batch.execute(_PLANS)
        return self._batch

    def _working(self) -> Connection:
        if self._batch is None:
            raise AssertionError("a batch's work comes after its claim")
        return self._batch

    @staticmethod
    def _in_transaction(connection: Connection) -> bool:
        idle = psycopg.pq.TransactionStatus.IDLE
        return not connection.closed and connection.info.transaction_status != idle

    def _roll_back(self) -> None:
        connection = self._batch
        if connection is None:
            return
        try:
            if self._in_transaction(connection):
                # Not as a statement: only this makes psycopg forget the statements that it believes
                # prepared, and that the aborted pipeline never prepared.
                connection.rollback()
        except Exception:
            # Locks die with the connection; the next batch opens another.
            connection.close()
