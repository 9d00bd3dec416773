"""What a worker counts: batches in its children, tasks under celery-exporter's names.

Every series is laid out here, before the pool forks; a child counts in its own slot.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import billiard
from celery import signals
from celery.worker import state

from config import meters
from workers.contract.names import (
    INTAKE_QUEUE,
    ORDERS_QUEUE,
    PROCESS_BATCH_TASK,
    SUBMIT_INTENT_TASK,
)
from workers.service.process_batch import BatchReport

_BATCHES = meters.counter("tidegate_batches_total")
_SIZES = meters.histogram("tidegate_batch_intents")
_STAGES = meters.histograms("tidegate_batch_stage_seconds")
_SOJOURN = meters.histogram("tidegate_sojourn_seconds")
_CONTENTIONS = meters.counter("tidegate_batch_contentions_total")
_FAILURES = meters.counter("tidegate_batch_failures_total")
_QUARANTINED = meters.counter("tidegate_intents_quarantined_total")
FAULTS = meters.counter("tidegate_batch_faults_total")

# The child's pid is no part of the name: a series for each restart would stay for ever.
_HOST = f"worker@{socket.gethostname()}"
_UP = meters.gauge("celery_worker_up", hostname=_HOST)
_ACTIVE = meters.gauge("celery_worker_tasks_active", hostname=_HOST)
_QUEUES = {PROCESS_BATCH_TASK: ORDERS_QUEUE, SUBMIT_INTENT_TASK: INTAKE_QUEUE}


def _tasks(name: str) -> dict[str, meters.Counter]:
    return {
        task: meters.counter(name, name=task, hostname=_HOST, queue_name=queue)
        for task, queue in _QUEUES.items()
    }


_RECEIVED = _tasks("celery_task_received_total")
_STARTED = _tasks("celery_task_started_total")
_SUCCEEDED = _tasks("celery_task_succeeded_total")
_FAILED = _tasks("celery_task_failed_total")
_RUNTIME = {
    task: meters.histogram("celery_task_runtime", name=task, hostname=_HOST, queue_name=queue)
    for task, queue in _QUEUES.items()
}


def count_batches(report: BatchReport) -> None:
    """Count what a call of the processor did."""
    _BATCHES.inc(len(report.sizes))
    _SIZES.observe_many(report.sizes)
    _SOJOURN.observe_many([ms / 1_000 for ms in report.sojourn_ms])
    for stage, laps_ms in report.stage_ms.items():
        _STAGES[stage].observe_many([ms / 1_000 for ms in laps_ms])
    for series, count in (
        (_CONTENTIONS, report.contentions),
        (_FAILURES, report.failures),
        (_QUARANTINED, report.quarantined),
    ):
        if count:
            series.inc(count)


def meter_tasks(children: int) -> None:
    """Count the tasks of this worker and its children; call once, before the pool forks."""
    meters.share(children)
    began: dict[str, float] = {}

    def up(**_: Any) -> None:
        _UP.set(1)
        meters.before_reading(lambda: _ACTIVE.set(len(state.active_requests)))

    def forked(**_: Any) -> None:
        # The pool gives the place of a dead child to the next one.
        meters.take(billiard.current_process().index)

    def received(request: Any, **_: Any) -> None:
        _count(_RECEIVED, request.name)

    def begun(task_id: str, task: Any, **_: Any) -> None:
        began[task_id] = time.perf_counter()
        _count(_STARTED, task.name)

    def ended(task_id: str, task: Any, state: str | None = None, **_: Any) -> None:
        seconds = time.perf_counter() - began.pop(task_id, time.perf_counter())
        _count(_SUCCEEDED if state == "SUCCESS" else _FAILED, task.name)
        if task.name in _RUNTIME:
            _RUNTIME[task.name].observe(seconds)

    signals.worker_ready.connect(up, weak=False)
    signals.worker_process_init.connect(forked, weak=False)
    signals.task_received.connect(received, weak=False)
    signals.task_prerun.connect(begun, weak=False)
    signals.task_postrun.connect(ended, weak=False)


def _count(series: dict[str, meters.Counter], task: str) -> None:
    if task in series:
        series[task].inc()
