"""The worker process: Celery's prefork pool around `process_batch`.

A child builds its processor after the fork (connections are nobody's inheritance), and dies with its
parent: a child without a parent would go on holding locks that nobody can see.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import billiard.pool
import structlog
from celery import Celery, signals

from config import failpoints
from config.settings import Settings
from workers.contract.celery_app import make_app
from workers.contract.ids import uuid_of
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE, PROCESS_BATCH_TASK
from workers.runtime import watchdog
from workers.runtime.bootstrap import build_processor
from workers.runtime.telemetry import serve_metrics, tell_batch
from workers.service.process_batch import Processor
from workers.store.errors import Fault, fault_of

_log = structlog.get_logger()

# One hint may set off many full batches; after this a child looks at its queue again, so that a
# shutdown is not kept waiting.
GO_ON_FOR_S = 1.0
HINT_IDS_MAX = 10_000  # a hint is untrusted input: no honest one is longer

Register = Callable[[Celery, Settings], None]


def run(settings: Settings, register: Sequence[Register] = ()) -> int:
    """Serve until SIGTERM, finish the batches in hand, and return the exit status.

    `register` adds tasks of other packages to the app: each is called once, before the fork.
    """
    app = make_app(settings)
    register_process_batch(app, settings)
    for add in register:
        add(app, settings)
    signals.worker_process_init.connect(_die_with_parent, weak=False)

    def ready(**_: object) -> None:
        # After the fork: a child inherits neither the listening socket nor the thread.
        serve_metrics(settings.worker.metrics_port, settings.worker.metrics_host)
        watchdog.watch(app)

    signals.worker_ready.connect(ready, weak=False)
    # A leaving child waits until its parent has counted all its answers: up to 30 s, and under load
    # billiard's count falls short for good. An answer is a hint's acknowledgement, not worth that.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10  # times 0.1 s
    worker = app.Worker(
        pool="prefork",
        concurrency=settings.worker.concurrency,
        queues=[ORDERS_QUEUE, INTAKE_QUEUE] if register else [ORDERS_QUEUE],
        hostname=f"worker-{os.getpid()}@%h",
        loglevel="WARNING",
        quiet=True,  # no banner: the log is JSON
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def register_process_batch(app: Celery, settings: Settings) -> None:
    """Add task `tidegate.process_batch` to the app."""
    processors: list[Processor] = []  # of this process; built by its first hint

    @app.task(name=PROCESS_BATCH_TASK, shared=False)  # type: ignore[untyped-decorator]
    def process_batch(intent_ids: object) -> None:
        hinted = _ids(intent_ids)
        if hinted is None:
            return
        if not processors:
            processors.append(build_processor(settings))
        _process(processors[0], hinted)
        failpoints.hit("worker.before_ack")


def _process(processor: Processor, hinted: Sequence[UUID]) -> None:
    """Run batches; a fault of the system is logged, not raised: the journal keeps the intents."""
    try:
        tell_batch(processor.run(hinted, until=time.monotonic() + GO_ON_FOR_S))
    except Exception as error:
        if fault_of(error) is Fault.OWN:
            raise
        _log.warning("batch put off", error=repr(error), hinted=len(hinted))


def _ids(argument: object) -> list[UUID] | None:
    """Read a hint; None, and a log line, for what is none."""
    try:
        if not isinstance(argument, list) or len(argument) > HINT_IDS_MAX:
            raise ValueError("expected a list of intent ids")
        return [_id(text) for text in argument]
    except (ValueError, TypeError, AttributeError) as error:
        _log.warning("hint ignored", error=str(error)[:200])
        return None


def _id(text: str) -> UUID:
    raw = bytes.fromhex(text)
    if len(raw) != 16:
        raise ValueError(f"expected an id of 16 bytes, got {len(raw)}")
    return uuid_of(raw)


def _die_with_parent(**_: object) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
