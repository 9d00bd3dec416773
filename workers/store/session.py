"""A worker's two connections: one for the batch's transaction, one for what must outlive it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from uuid import UUID

import psycopg

from workers.contract.resource import IntentResource
from workers.domain.intent import Intent
from workers.domain.movements import Movements
from workers.domain.outcome import Outcome
from workers.domain.snapshot import Snapshot
from workers.store import batch, resources
from workers.store.batch import Claim, Deaths
from workers.store.pool import Connection


class BatchSession:
    """Opens its connections when first needed and again after they broke; for one thread.

    The second connection records claims with `synchronous_commit` off: a crash of the server may
    lose the last of them, which costs one more attempt at an intent, never an intent.
    """

    def __init__(self, open_connection: Callable[[], Connection], worker: str) -> None:
        self._open = open_connection
        self._worker = worker
        self._batch: Connection | None = None
        self._record: Connection | None = None
        self._ended: list[UUID] = []  # batches that failed while their record could not be removed

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
        self._batch = self._live(self._batch)
        try:
            return batch.begin_and_claim(self._batch, hinted, limit)
        except psycopg.OperationalError:
            if not self._batch.closed:
                raise
        # It had died while idle, as in a failover: nothing was begun on it.
        self._batch = self._open()
        return batch.begin_and_claim(self._batch, hinted, limit)

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
            self._record = self._live(self._record)
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
        before_commit: Callable[[], None],
    ) -> None:
        """See `batch.apply_and_commit`."""
        batch.apply_and_commit(
            self._working(), batch_id, outcomes, moved, decided_at, before_commit=before_commit
        )

    def record_failure(
        self, intent_id: UUID, error: str, *, counted: bool, pause_ms: int, failures_max: int
    ) -> int:
        """See `batch.record_failure`; committed at once."""
        self._batch = self._live(self._batch)
        return batch.record_failure(
            self._batch,
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
        self._batch = self._live(self._batch)
        found = resources.read_many(self._batch, intent_ids)
        return [resource for resource in found.values() if resource.decided_at is not None]

    def close(self) -> None:
        """Close both connections."""
        for connection in (self._batch, self._record):
            if connection is not None:
                connection.close()
        self._batch = self._record = None

    def _live(self, connection: Connection | None) -> Connection:
        if connection is None or connection.closed:
            return self._open()
        return connection

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
