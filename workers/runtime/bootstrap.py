"""The composition root of the workers' processes: a page of constructor calls."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

import structlog

from config.settings import Settings
from workers.contract import announce
from workers.contract.gate import Gate, GateUnreachable, open_client
from workers.contract.resource import IntentResource, pack
from workers.service.process_batch import Processor
from workers.store.pool import WORKER, Bounds, Connection, connect
from workers.store.session import BatchSession

_log = structlog.get_logger()


def build_gate(settings: Settings) -> Gate:
    """Build the gate's client."""
    return Gate(
        open_client(settings.valkey.url, timeout_ms=settings.valkey.timeout_ms),
        key_prefix=settings.valkey.key_prefix,
        in_flight_max=settings.admission.in_flight_max,
        unreconciled_rate=settings.admission.unreconciled_rate,
    )


def opener(settings: Settings, role: str | None, name: str) -> Callable[[], Connection]:
    """Return a function that opens a connection of this role, within the settings' bounds."""
    postgres = settings.postgres
    bounds = Bounds(
        connect_timeout_s=postgres.connect_timeout_s,
        statement_timeout_ms=postgres.statement_timeout_ms,
        lock_timeout_ms=postgres.lock_timeout_ms,
        idle_in_transaction_ms=postgres.idle_in_transaction_timeout_ms,
    )
    return lambda: connect(postgres.dsn, role, bounds, name=name)


def build_processor(settings: Settings) -> Processor:
    """Build what a worker child runs its batches with."""
    session = BatchSession(
        opener(settings, WORKER, "worker"), worker=f"{socket.gethostname()}:{os.getpid()}"
    )
    return Processor(
        session, announcer(build_gate(settings)), batch_max=settings.worker.batch_max
    )


def announcer(gate: Gate) -> Callable[[Sequence[IntentResource]], None]:
    """Return a function that settles intents at the gate and tells their outcomes, in one call.

    Without Valkey it only logs: who waits finds the outcome in the journal, and the reconciliation
    finds the settled ids.
    """

    def tell(outcomes: Sequence[IntentResource]) -> None:
        if not outcomes:
            return
        ids = [outcome.intent_id for outcome in outcomes]
        message = announce.encode([(outcome.intent_id, pack(outcome)) for outcome in outcomes])
        try:
            gate.settle(ids, message)
        except GateUnreachable as error:
            _log.warning("outcomes not announced", intents=len(ids), error=str(error))

    return tell
