"""Publishing: one Celery message of intent ids, off the reply path, with a deadline.

The message is a hint. If it is late or lost, the intents are late: the next claim or the
redispatcher finds them. So a failure here is counted and logged, and nobody waits for it.

Problem: a message costs about a millisecond here and as much at the worker, and whoever it wakes
claims all that is open, not only what it names. A hint for each batch of the intake would
keep workers busy with small batches, each of which costs nearly as much as a large one.

    offer ──▶ waiting ──▶ hint, as far as the window of unheard ones lets
                 │            └─ heard when an outcome of it is announced, or after a while anyway
                 └─ decided meanwhile: gone

So hints are sent as Nagle sends segments (RFC 896): a small one only when none is unheard, one that
is worth a batch as long as the window of `unheard_max` lets. Idle, an intent is hinted at at once;
busy, hints come as fast as workers finish, and batches grow by themselves. Two departures: what is
acknowledged is a batch, by the announcement of its outcomes, whoever decided it; and a hint unheard
for `UNHEARD_S` counts as lost, later each time while none is heard, so that dead workers meet no
storm of hints when they come back. While announcements cannot be heard there is no window.

And small hints are paced: when the last one says that `PACED_MIN` ids or more will come within
`PACE_S`, the next one is sent that long after it: fewer and larger batches for outcomes that come a
few milliseconds later.

Past `WAITING_MAX` waiting ids the oldest are dropped: with so many open intents every claim comes
out full, and workers go on without hints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

import structlog

from config import failpoints
from producer import metering

_log = structlog.get_logger()

WAITING_MAX: Final = 50_000
# A fifth of a full batch costs a worker little more for each order than a full one.
WORTH: Final = 5
PACE_S: Final = 0.02  # between small hints of a busy hour: less than a person or a poll notices
PACED_MIN: Final = 10  # ids that must be expected within it, for it to be worth waiting
UNHEARD_S: Final = 0.1  # several times what a batch takes
UNHEARD_S_MAX: Final = 1.6


class Publisher:
    """Sends hints from a thread of its own; `send` may raise and must keep its own deadline.

    One hint stands for up to `batch_max` intents. `unheard_max` hints may be unheard while `hears`
    is true; without either, hints are sent as fast as the broker takes them.
    """

    def __init__(
        self,
        send: Callable[[Sequence[UUID]], None],
        *,
        batch_max: int,
        unheard_max: int | None = None,
        hears: Callable[[], bool] = lambda: False,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._worth = max(1, batch_max // WORTH)
        self._unheard_max = unheard_max
        self._hears = hears
        self._waiting: dict[bytes, UUID] = {}  # by `UUID.bytes`, in the order of acceptance
        self._unheard: dict[bytes, float] = {}  # a hint's first id, and when it was sent
        self._patience_s = UNHEARD_S
        self._sent_at = float("-inf")
        self._pace_s = 0.0  # until the next small hint
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.failed = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def offer(self, intent_ids: Iterable[UUID]) -> None:
        """Hand over ids of committed intents; returns at once."""
        with self._wake:
            waiting = self._waiting
            before = len(waiting)
            waiting.update([(intent_id.bytes, intent_id) for intent_id in intent_ids])
            if len(waiting) > WAITING_MAX:
                for key in list(waiting)[: len(waiting) - WAITING_MAX]:
                    del waiting[key]
            if before == 0 or before < self._worth <= len(waiting):
                self._wake.notify()  # else it waits already, for room or for its time

    def heard(self, intent_ids: Iterable[bytes]) -> None:
        """Note the ids (`UUID.bytes`) whose outcomes were announced, whoever had accepted them."""
        with self._wake:
            waiting, unheard = self._waiting, self._unheard
            for key in intent_ids:
                waiting.pop(key, None)
                if unheard and unheard.pop(key, None) is not None:
                    self._patience_s = UNHEARD_S
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
                metering.HINTS["sent"].inc()
            except Exception as error:
                self.failed += 1
                metering.HINTS["failed"].inc()
                _log.warning("hint not published", error=error, intents=len(hint))

    def _next(self) -> list[UUID]:
        """Wait for ids and for room; return what to name, or none when closing with none left."""
        with self._wake:
            while not self._closing:
                room_in_s = self._room_in_s() if self._waiting else None
                if room_in_s == 0.0:
                    break
                self._wake.wait(room_in_s)
            keys = list(self._waiting)[: self._batch_max]
            if keys:
                self._note_sent(keys)
            return [self._waiting.pop(key) for key in keys]

    def _note_sent(self, keys: Sequence[bytes]) -> None:
        now = time.monotonic()
        self._unheard[keys[0]] = now
        expected = len(keys) * PACE_S / max(now - self._sent_at, 1e-6)
        self._pace_s = PACE_S if expected >= PACED_MIN else 0.0
        self._sent_at = now

    def _room_in_s(self) -> float:
        """In how many seconds another hint may be sent; 0: now."""
        if self._unheard_max is None or not self._hears():
            self._unheard.clear()
            return 0.0
        now = time.monotonic()
        small = len(self._waiting) < self._worth
        if len(self._unheard) < (1 if small else self._unheard_max):
            return max(0.0, self._sent_at + self._pace_s - now) if small else 0.0
        oldest, sent_at = next(iter(self._unheard.items()))
        left_s = sent_at + self._patience_s - now
        if left_s > 0:
            return left_s
        del self._unheard[oldest]
        self._patience_s = min(2 * self._patience_s, UNHEARD_S_MAX)
        return 0.0
