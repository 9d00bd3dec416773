"""The composition root of the workers' processes: a page of constructor calls."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

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
    )


def announcer(gate: Gate) -> Callable[[Sequence[IntentResource], Sequence[Balance]], None]:
    """Return a function that settles intents at the gate and tells their outcomes, in one call.

    Without Valkey it only logs: who waits finds the outcome in the journal, and the reconciliation
    finds the settled ids.
    """

    def tell(outcomes: Sequence[IntentResource], balances: Sequence[Balance]) -> None:
        if not outcomes:
            return
        ids = [outcome.intent_id for outcome in outcomes]
        message = announce.encode([(outcome.intent_id, pack(outcome)) for outcome in outcomes])
        try:
            gate.settle(ids, message, balances)
        except GateUnreachable as error:
            _log.warning("outcomes not announced", intents=len(ids), error=str(error))

    return tell
