"""Handing spans over: a bounded queue, and a thread that empties it. Who tells never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import structlog

from config import meters
from config.tracing import Span

_log = structlog.get_logger()

# Some seconds of what a busy process tells, and a few megabytes.
QUEUE_MAX: Final = 4_096
EXPORT_MAX: Final = 512  # spans at once; as OpenTelemetry has it
INTERVAL_S: Final = 1.0  # what a killed process loses at most
CUT_SHORT_S: Final = 0.5  # for an exporter that was interrupted

_SPANS = meters.counters("tidegate_spans_total")


class Exports(Protocol):
    """Takes spans over; used by the tracer's thread only, but for `interrupt`."""

    def export(self, spans: Sequence[Span]) -> bool:
        """Hand spans over; False where they are lost."""

    def interrupt(self) -> None:
        """Give up what `export` waits for."""


class Tracer:
    """Tells spans, from a thread of its own. Make it after the fork: a thread is not inherited."""

    def __init__(
        self, exports: Exports, *, queue_max: int = QUEUE_MAX, interval_s: float = INTERVAL_S
    ) -> None:
        """Begin. `queue_max` spans wait; what is told beyond is dropped and counted."""
        self._exports = exports
        self._queue: deque[Span] = deque()
        self._queue_max = queue_max
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)
        self._thread.start()

    def tell(self, spans: Iterable[Span]) -> None:
        """Take spans; returns at once. Safe in any thread."""
        for span in spans:
            if len(self._queue) >= self._queue_max or self._closing:
                _SPANS["dropped"].inc()
            else:
                self._queue.append(span)
        if len(self._queue) >= EXPORT_MAX:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Take nothing more, and hand over what waits, for at most about `timeout_s`."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            left, self._queue = len(self._queue), deque()
            _SPANS["dropped"].inc(left)
            self._exports.interrupt()
            self._thread.join(CUT_SHORT_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            closing = self._closing  # read first: what was told before it is handed over yet
            self._empty()

    def _empty(self) -> None:
        while spans := self._take():
            try:
                fate = "exported" if self._exports.export(spans) else "failed"
            except Exception as error:
                fate = "failed"
                _log.warning("spans not exported", error=error, spans=len(spans))
            _SPANS[fate].inc(len(spans))

    def _take(self) -> list[Span]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(len(queue), EXPORT_MAX))]
