"""The composition root of the workers' processes: a page of constructor calls."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import structlog

from config.settings import Settings
from workers.contract import announce
from workers.contract.admission import Balance
from workers.contract.gate import Gate, GateUnreachable, open_gate
from workers.contract.resource import IntentResource, pack
from workers.service.process_batch import Processor
from workers.store.pool import WORKER, opener
from workers.store.session import BatchSession

_log = structlog.get_logger()

UNSETTLED_MAX: Final = 50_000  # more than a worker decides in an outage of 5 s
RESETTLE_S: Final = 0.5  # between attempts: longer holds up admission, shorter asks in vain


def build_processor(settings: Settings) -> Processor:
    """Build what a worker child runs its batches with."""
    session = BatchSession(
        opener(settings.postgres, WORKER, "worker"), worker=f"{socket.gethostname()}:{os.getpid()}"
    )
    return Processor(
        session,
        announcer(open_gate(settings)),
        batch_max=settings.worker.batch_max,
        scarce_max=settings.governor.scarce_units_max,
        follows=settings.tracing.is_on,
    )


def announcer(gate: Gate) -> Callable[[Sequence[IntentResource], Sequence[Balance]], None]:
    """Return a function that settles intents at the gate and tells their outcomes, in one call.

    What could not be told is settled later, without being told: who waits finds the outcome in the
    journal. Until then it counts as in flight.
    """
    unsettled = _Unsettled(gate)

    def tell(outcomes: Sequence[IntentResource], balances: Sequence[Balance]) -> None:
        if not outcomes:
            return
        ids = [outcome.intent_id for outcome in outcomes]
        message = announce.encode([(outcome.intent_id, pack(outcome)) for outcome in outcomes])
        try:
            gate.settle(ids, message, balances)
        except GateUnreachable as error:
            _log.warning("outcomes not announced", intents=len(ids), error=error)
            unsettled.settle_later(ids)

    return tell


class _Unsettled:
    """Decided intents that the gate still counts as in flight, settled soon after it answers again.

    On a thread of its own, for there may be no next batch to do it with: a gate that is full of
    such ids admits nobody, and the reconciliation leaves the young ones alone. Repeating it is
    harmless. What is beyond `UNSETTLED_MAX`, or dies with this process, the reconciliation finds.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._ids: list[UUID] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def settle_later(self, ids: Sequence[UUID]) -> None:
        """Take ids over; returns at once."""
        with self._lock:
            self._ids += ids
            del self._ids[:-UNSETTLED_MAX]
            if self._timer is None:
                self._timer = threading.Timer(RESETTLE_S, self._settle)
                self._timer.daemon = True
                self._timer.start()

    def _settle(self) -> None:
        with self._lock:
            ids, self._ids, self._timer = self._ids, [], None
        try:
            self._gate.release(ids)
        except GateUnreachable:
            self.settle_later(ids)
