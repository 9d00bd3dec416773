"""What the governor tells of its ticks: gauges, and log lines where something changed.

Only who leads shows what it measures, so that each series is there once. And what was not measured
is not shown: an unknown number is no zero.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog

from config import meters
from workers.domain.governor import Sample
from workers.domain.overload import Level, Policy
from workers.service.govern import TickReport

_log = structlog.get_logger()

LOOK_BACK_S: Final = 600.0  # a prediction is compared with the truth for so long
_S: Final = 0.001  # of a millisecond

_LEADS = meters.gauge("tidegate_governor_leads")
_LEVEL = meters.gauge("tidegate_level")
_ORDERED = meters.gauge("tidegate_level_ordered")
_SINCE = meters.gauge("tidegate_level_since_timestamp_seconds")
_WAIT = meters.gauge("tidegate_predicted_wait_seconds")
_SERVICE = meters.gauge("tidegate_service_per_second")
_ADMITTED = meters.gauge("tidegate_admitted_per_second")
_IN_FLIGHT = meters.gauge("tidegate_in_flight")
_WAIT_THEN = meters.gauge("tidegate_predicted_wait_then_seconds")
_TRUE_WAIT = meters.gauge("tidegate_true_wait_seconds")
_SOJOURN = meters.gauge("tidegate_sojourn_p99_seconds")
_DISPATCH = meters.gauge("tidegate_dispatch_lag_seconds")
_POSTGRES = meters.gauge("tidegate_probe_seconds", dependency="postgres")
_VALKEY = meters.gauge("tidegate_probe_seconds", dependency="valkey")
_CONNECTIONS = meters.gauge("tidegate_postgres_connections_ratio")
_MEMORY = meters.gauge("tidegate_valkey_memory_ratio")
_DECIDED = meters.counter("tidegate_decided_heard_total")
_MEASURED = (_IN_FLIGHT, _WAIT_THEN, _TRUE_WAIT, _SOJOURN, _DISPATCH, _POSTGRES, _VALKEY,
             _CONNECTIONS, _MEMORY)  # fmt: skip
_RULED = (_LEVEL, _ORDERED, _SINCE, _WAIT, _SERVICE, _ADMITTED)


class Telling:
    """Turns reports into metrics, and into log lines where something changed."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._level = Level.NORMAL
        self._predictions: deque[tuple[float, int]] = deque()  # when, and the wait in ms

    def tell(self, report: TickReport) -> None:
        """Tell one tick."""
        leads = report.epoch is not None
        if report.epoch != self._epoch:
            _log.info("leads" if leads else "leads no longer", epoch=report.epoch)
            self._epoch = report.epoch
        _LEADS.set(leads)
        if not leads:
            for gauge in (*_MEASURED, *_RULED):
                gauge.set(None)
            return
        if report.sample is not None:
            self._tell_sample(report.sample)
        if report.policy is not None:
            _ORDERED.set(report.ordered is not None)
            level = report.policy.level if report.ordered is None else report.ordered.level
            _LEVEL.set(level.rank)
            self._tell_policy(report.policy, report.sample)

    def _tell_sample(self, sample: Sample) -> None:
        _IN_FLIGHT.set(sample.in_flight)
        _DECIDED.inc(sample.decided or 0)
        _TRUE_WAIT.set(_seconds(sample.sojourn_p50_ms))
        _WAIT_THEN.set(_seconds(self._predicted_then(sample)))
        _SOJOURN.set(_seconds(sample.sojourn_p99_ms))
        _DISPATCH.set(_seconds(sample.dispatch_lag_ms))
        _POSTGRES.set(_seconds(sample.postgres_ms))
        _VALKEY.set(_seconds(sample.valkey_ms))
        _CONNECTIONS.set(sample.postgres_connections_share)
        _MEMORY.set(sample.valkey_memory_share)

    def _predicted_then(self, sample: Sample) -> int | None:
        """Return what was predicted when those decided now were accepted; None: none was, or then."""
        if sample.sojourn_p50_ms is None:
            return None
        accepted_at = sample.at_s - sample.sojourn_p50_ms * _S
        return next((ms for at_s, ms in reversed(self._predictions) if at_s <= accepted_at), None)

    def _tell_policy(self, policy: Policy, sample: Sample | None) -> None:
        _SINCE.set(policy.since_ms * _S if policy.since_ms else None)
        _WAIT.set(policy.predicted_wait_ms * _S)
        _SERVICE.set(policy.service_per_s)
        _ADMITTED.set(policy.admitted_per_s)
        if sample is not None:
            self._predictions.append((sample.at_s, policy.predicted_wait_ms))
            while self._predictions[0][0] < sample.at_s - LOOK_BACK_S:
                self._predictions.popleft()
        if policy.level is not self._level:
            _log.warning(
                "level",
                overload_level=policy.level,
                before=self._level,
                reason=policy.reason,
                wait_ms=policy.predicted_wait_ms,
                service_per_s=policy.service_per_s and round(policy.service_per_s),
            )
        self._level = policy.level


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds * _S
