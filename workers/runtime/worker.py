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
import billiard.util
import celery.apps.worker
import celery.concurrency.asynpool
import structlog
from celery import Celery, Task, signals
from structlog.contextvars import bound_contextvars

from config import failpoints, logging, meters
from config.sampling import Sample
from config.settings import Settings
from config.tracing import Context, open_tracer
from workers.contract.celery_app import make_app
from workers.contract.ids import uuid_of
from workers.contract.names import (
    INTAKE_QUEUE,
    ORDERS_QUEUE,
    PROCESS_BATCH_TASK,
    messaging_system,
)
from workers.contract.trace import context_of, trace_of_task, trace_text
from workers.runtime import metering, watchdog
from workers.runtime.bootstrap import build_processor
from workers.runtime.telemetry import serve_metrics, tell_batch
from workers.runtime.tracing import tell_attempts
from workers.service.process_batch import BatchReport
from workers.store.errors import Fault, fault_of

_log = structlog.get_logger()

# One hint may set off many full batches; after this a child looks at its queue again, so that a
# shutdown is not kept waiting.
GO_ON_FOR_S = 1.0
# A child's end is heard a moment before it can be reaped, and Celery looks again only after 5 s: so
# long a worker that lost its only child did nothing.
CHILDREN_LOOK_S = 0.25
HINT_IDS_MAX = 10_000  # a hint is untrusted input: no honest one is longer
SPANS_REST_S = 2.0  # for the spans of the last batches

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
    meters.introduce("worker")
    metering.meter_tasks(children=settings.worker.concurrency)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    signals.worker_process_shutdown.connect(lambda **_: logging.flush(), weak=False)

    def ready(**_: object) -> None:
        # After the fork: a child inherits neither the listening socket nor the thread.
        serve_metrics(settings.worker.metrics_host, settings.worker.metrics_port, "worker", "api")
        watchdog.watch(app)

    signals.worker_ready.connect(ready, weak=False)
    celery.concurrency.asynpool.AsynPool.timers = property(
        lambda pool: {pool.maintain_pool: CHILDREN_LOOK_S}
    )
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
    children: list[_Child] = []  # of this process, one; built by its first hint

    def close(**_: object) -> None:
        for child in children:
            child.close()

    signals.worker_process_shutdown.connect(close, weak=False)

    @app.task(name=PROCESS_BATCH_TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def process_batch(task: Task, intent_ids: object) -> None:
        headers = task.request.headers or {}
        traceparent = headers.get("traceparent")
        trace = trace_of_task(traceparent, task.request.id)
        with bound_contextvars(trace_id=trace_text(trace)):
            hinted = _ids(intent_ids)
            if hinted is None:
                return
            if not children:
                children.append(_Child(settings))
            children[0].process(hinted, context_of(traceparent))
            failpoints.hit("worker.before_ack")


class _Child:
    """What a child runs its batches with, and tells of them."""

    def __init__(self, settings: Settings) -> None:
        self._processor = build_processor(settings)
        self._sample = Sample(settings.log.sample_share)
        self._tracer = open_tracer(settings.tracing, "worker")
        self._system = messaging_system(settings.broker_url)

    def process(self, hinted: Sequence[UUID], hint: Context | None) -> None:
        """Run batches; a fault of the system is logged, not raised: the journal keeps the intents."""
        report = BatchReport()
        try:
            self._processor.run(hinted, until=time.monotonic() + GO_ON_FOR_S, report=report)
        except Exception as error:
            if fault_of(error) is Fault.OWN:
                raise
            metering.FAULTS.inc()
            _log.warning("batch put off", error=error, hinted=len(hinted))
        finally:
            metering.count_batches(report)
            tell_batch(report, self._sample)
            if self._tracer is not None:
                tell_attempts(self._tracer, report, hint, self._system)

    def close(self) -> None:
        """Hand over the spans of the last batches."""
        if self._tracer is not None:
            self._tracer.close(SPANS_REST_S)


def _ids(argument: object) -> list[UUID] | None:
    """Read a hint; None, and a log line, for what is none."""
    try:
        if not isinstance(argument, list) or len(argument) > HINT_IDS_MAX:
            raise ValueError("expected a list of intent ids")
        return [_id(text) for text in argument]
    except (ValueError, TypeError, AttributeError) as error:
        _log.warning("hint ignored", error=error)
        return None


def _id(text: str) -> UUID:
    raw = bytes.fromhex(text)
    if len(raw) != 16:
        raise ValueError(f"expected an id of 16 bytes, got {len(raw)}")
    return uuid_of(raw)


def _keep_our_logging(**_: object) -> None:
    """Stand where Celery would set up loggers of its own, and where it prints past them all."""
    billiard.util.get_logger().propagate = True
    celery.apps.worker.safe_say = lambda said, *_: _log.info("celery says", said=said)


def _die_with_parent(**_: object) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
