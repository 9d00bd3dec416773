"""The watchdog: ends a worker that has gone deaf.

A consumer with a prefetch of one that loses its place never asks for the next hint, and never
learns that the broker is back. `contract.transport` frees the place where an acknowledgement fails;
other causes of the same silence are on record for other versions. So the symptom is watched, not
the cause: hints wait, nothing is in hand, and nothing is taken for `DEAF_AFTER_S`. Then the process
ends, and its supervisor starts another.

A worker whose batch takes long, or waits for a paused database, is not deaf: it has work in hand.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import structlog
from celery import Celery
from celery.worker import state

from workers.contract.hints import waiting_hints

_log = structlog.get_logger()

LOOK_INTERVAL_S = 1.0
DEAF_AFTER_S = 5.0  # an idle worker takes a waiting hint within milliseconds
EXIT_DEAF = 70  # EX_SOFTWARE: nobody asked for this end


class Hearing:
    """Judges whether a worker hears, from looks at it; knows no queue and no clock."""

    def __init__(self, deaf_after_s: float) -> None:
        self._deaf_after_s = deaf_after_s
        self._taken = -1
        self._silent_since: float | None = None

    def is_deaf(self, waiting: int, in_hand: int, taken: int, now: float) -> bool:
        """Take a look: `taken` counts the hints taken so far, `now` is monotonic seconds."""
        silent = waiting > 0 and in_hand == 0 and taken == self._taken
        self._taken = taken
        if not silent:
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since >= self._deaf_after_s


def watch(app: Celery) -> None:
    """Watch this process from a thread of its own."""
    hearing = Hearing(DEAF_AFTER_S)
    thread = threading.Thread(
        target=_run, args=(hearing, lambda: waiting_hints(app)), name="watchdog", daemon=True
    )
    thread.start()


def _run(hearing: Hearing, waiting_now: Callable[[], int]) -> None:
    while True:
        time.sleep(LOOK_INTERVAL_S)
        try:
            waiting = waiting_now()
        except Exception:
            waiting = 0  # without a broker there is nothing to be deaf to
        in_hand = len(state.active_requests) + len(state.reserved_requests)
        if hearing.is_deaf(waiting, in_hand, state.all_total_count[0], time.monotonic()):
            _log.critical("worker is deaf: hints wait and none is taken", waiting=waiting)
            os._exit(EXIT_DEAF)
