"""The redispatcher process: duties on a schedule, each on one connection, until told to stop."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import structlog

from config import meters
from config.catalogue import metric
from config.settings import Settings
from workers.contract.celery_app import make_app
from workers.contract.gate import Gate, open_gate
from workers.contract.hints import hint_sender, waiting_hints
from workers.runtime.stopping import told_to_stop
from workers.runtime.telemetry import serve_metrics
from workers.service.redispatch import Bounds, Redispatch, Schedule, TickReport
from workers.store import lifecycle, redispatch
from workers.store.pool import WORKER, Session, opener

_log = structlog.get_logger()

_REDISPATCHED = meters.counter("tidegate_redispatched_total")
_ORDERS = meters.counter("tidegate_orders_expired_total")
_COUPONS = meters.counter("tidegate_coupons_expired_total")
_RECONCILED = meters.counters("tidegate_gate_reconciled_ids_total")
_RUNS = {
    (duty, result): meters.counter("tidegate_duty_runs_total", duty=duty, result=result)
    for duty in metric("tidegate_duty_runs_total").labels["duty"]
    for result in ("done", "failed")
}

COUPONS_INTERVAL_S = 10.0
# Else a leak too small to show in the counts would hold its units for as long as the load lasts.
# Half a million open ids take 1.5 s and 100 MB, of the gate's time 0.1 s in steps of 0.2 ms.
WHOLE_INTERVAL_S = 60.0
CLAIMS_INTERVAL_S = 30.0
CLAIMS_OLDER_MS = 60_000  # no batch lives this long: its statements are bounded
PARTITIONS_INTERVAL_S = 3_600.0
PARTITION_DAYS = 8  # made ahead, so that a redispatcher may be away for a week


class RedispatchStore(Session):
    """The store's functions on one connection."""

    def take_due(self, count_max: int, dispatch_after_ms: int) -> list[UUID]:
        """See `store.redispatch.take_due`."""
        return redispatch.take_due(self.connection, count_max, dispatch_after_ms)

    def open_exists(self, young_ms: int) -> bool:
        """See `store.redispatch.open_exists`."""
        return redispatch.open_exists(self.connection, young_ms)

    def open_count(self) -> int:
        """See `store.redispatch.open_count`."""
        return redispatch.open_count(self.connection)

    def expire_due(self, count_max: int) -> int:
        """See `store.lifecycle.expire_due`."""
        return lifecycle.expire_due(self.connection, count_max)

    def expire_coupons(self, after: UUID, count_max: int) -> tuple[int, UUID | None]:
        """See `store.lifecycle.expire_coupons`."""
        return lifecycle.expire_coupons(self.connection, after, count_max)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    meters.introduce("redispatcher")
    serve_metrics(
        settings.redispatcher.metrics_host, settings.redispatcher.metrics_port, "redispatcher"
    )
    stop = told_to_stop()
    schedule = build_schedule(settings)
    while not stop.wait(settings.redispatcher.interval_ms / 1000):
        schedule.run_due()
    return 0


def build_schedule(settings: Settings) -> Schedule:
    """Wire the duties to the real servers."""
    app = make_app(settings)
    store = RedispatchStore(opener(settings.postgres, WORKER, "redispatcher"))
    gate = open_gate(settings)
    duties = Redispatch(
        store,
        hint_sender(app, settings.broker.publish_timeout_ms / 1000),
        lambda: waiting_hints(app),
        Bounds(
            hints_per_tick_max=settings.redispatcher.hints_per_tick_max,
            dispatch_after_ms=settings.redispatcher.dispatch_after_ms,
            expire_batch_max=settings.redispatcher.expire_batch_max,
            batch_max=settings.worker.batch_max,
        ),
    )
    schedule = Schedule(_tell_failure, lambda name: _RUNS[name, "done"].inc())
    reconcile_s = settings.redispatcher.reconcile_interval_ms / 1000
    schedule.add("reconcile whole gate", WHOLE_INTERVAL_S, lambda: _reconcile(gate, store))
    schedule.add("reconcile unknown gate", 0, lambda: _reconcile_unknown(gate, store))
    schedule.add("reconcile gate", reconcile_s, lambda: _reconcile(gate, store, store.open_count))
    schedule.add("hint", 0, lambda: _told(duties.hint))
    schedule.add("expire orders", 0, lambda: _told(duties.expire_orders))
    schedule.add("expire coupons", COUPONS_INTERVAL_S, lambda: _told(duties.expire_coupons))
    schedule.add(
        "sweep claims",
        CLAIMS_INTERVAL_S,
        lambda: redispatch.sweep_claims(store.connection, CLAIMS_OLDER_MS),
    )
    schedule.add(
        "ensure partitions",
        PARTITIONS_INTERVAL_S,
        lambda: redispatch.ensure_partitions(store.connection, PARTITION_DAYS),
    )
    return schedule


def _tell_failure(name: str, error: Exception) -> None:
    _RUNS[name, "failed"].inc()
    _log.warning("duty failed", duty=name, error=error)


def _reconcile_unknown(gate: Gate, store: RedispatchStore) -> None:
    """A gate that lost its memory admits a trickle only; it is not kept waiting for the interval."""
    if not gate.reconciled():
        _reconcile(gate, store)


def _reconcile(
    gate: Gate, store: RedispatchStore, open_count: Callable[[], int] | None = None
) -> None:
    done = gate.reconcile(lambda: redispatch.open_ids(store.connection), open_count=open_count)
    _RECONCILED["added"].inc(done.added)
    _RECONCILED["removed"].inc(done.removed)
    if done.added or done.removed or not done.finished:
        _log.info("gate reconciled", added=done.added, removed=done.removed, finished=done.finished)


def _told(duty: Callable[[TickReport], None]) -> None:
    report = TickReport()
    duty(report)
    _REDISPATCHED.inc(report.redispatched)
    _ORDERS.inc(report.orders_expired)
    _COUPONS.inc(report.coupons_expired)
    if report != TickReport():
        _log.info(
            "redispatched",
            hints=report.hints,
            intents=report.redispatched,
            orders_expired=report.orders_expired,
            coupons_expired=report.coupons_expired,
        )
