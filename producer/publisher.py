"""Publishing: one Celery message of intent ids, off the reply path, with a deadline.

The message is a hint. If it is late or lost, the intents are late: the next claim or the
redispatcher finds them. So a failure here is counted and logged, and nobody waits for it.

Hints gather while one is being sent, so their number is bounded by the speed of the broker and
their size by `batch_max`. Past `WAITING_MAX` waiting ids the oldest are dropped: with so many open
intents every claim comes out full, and workers go on without hints.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from config import failpoints

_log = structlog.get_logger()

WAITING_MAX = 50_000


class Publisher:
    """Sends hints from a thread of its own; `send` may raise and must keep its own deadline."""

    def __init__(self, send: Callable[[Sequence[UUID]], None], *, batch_max: int) -> None:
        self._send = send
        self._batch_max = batch_max
        self._waiting: deque[UUID] = deque(maxlen=WAITING_MAX)
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.failed = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def offer(self, intent_ids: Sequence[UUID]) -> None:
        """Hand over ids of committed intents; returns at once."""
        with self._wake:
            self._waiting.extend(intent_ids)
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most `timeout_s`, and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while hint := self._next():
            try:
                failpoints.hit("publish.before")
                self._send(hint)
                failpoints.hit("publish.after")
            except Exception as error:
                self.failed += 1
                _log.warning("hint not published", error=repr(error), intents=len(hint))

    def _next(self) -> list[UUID]:
        """Wait for ids; return up to a batch of them, or none when closing with nothing left."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            count = min(len(self._waiting), self._batch_max)
            return [self._waiting.popleft() for _ in range(count)]
