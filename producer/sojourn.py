"""How long outcomes take at present, measured from what is announced. In the API's memory only.

Every announcement holds sojourn times, by the database's clock: this process's own may be wrong, and
so may that of whoever made the ids. While nothing is announced, what is known is a lower bound: the
intents accepted since the last announcement have waited this long already. So a dead worker shows as
a growing estimate, and not as the fast one of the last minute.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

from workers.domain.overload import Level

FALLBACK_MS: Final = 500  # before anything was measured: a batch of workers that are idle
_WEIGHT: Final = 0.2  # of a new sample: about the last ten announcements count
_POLL_MS_MIN: Final = 100
_POLL_MS_MAX: Final = 5_000

# Polls are what can wait longest: they slow down as the system closes.
_SLOWER: Final = {Level.NORMAL: 1, Level.THROTTLED: 2, Level.SHEDDING: 4, Level.CLOSED: 6}

REST_FROM_MS: Final = 200  # outcomes that take longer wait for workers, not for their batch
REST_S_MAX: Final = 0.1  # enough to halve what an intake takes; with dead workers it costs no more


def rest_s(wait_ms: int, accepted_share: float) -> float:
    """Return how long the intake rests after a batch, in seconds, when outcomes take `wait_ms`.

    `accepted_share` is what it accepted of a full batch: a refusal leaves workers nothing to do, and
    must not keep the refused waiting.

    Taking in is less work than deciding, so on processors that both share an intake that never
    rests leaves the workers too few turns, and takes in what they cannot finish. The rest grows with
    the wait, a tenth of its excess, and so finds the pace at which both keep step. Nobody is refused:
    receipts come a moment later, which slows a caller who waits for them.
    """
    return min(max(0, wait_ms - REST_FROM_MS) / 10_000, REST_S_MAX) * accepted_share


def poll_ms(wait_ms: int, level: Level) -> int:
    """Return when to ask first for an outcome that takes `wait_ms`, with jitter upwards.

    Those who were accepted in one batch would ask in one moment; a quarter more takes them apart.
    """
    least_ms = min(max(wait_ms, _POLL_MS_MIN), _POLL_MS_MAX) * _SLOWER[level]
    return int(least_ms * (1 + random.random() / 4))


class Sojourn:
    """The estimate of one process. `heard` is called from the listening thread."""

    def __init__(self) -> None:
        self._mean_ms: float | None = None
        self._heard_at = float("-inf")  # monotonic; the last announcement with a sojourn time
        self._unheard_since: float | None = (
            None  # monotonic; acceptance after the last announcement
        )

    def accepted(self) -> None:
        """Note that an intent was accepted just now."""
        if self._unheard_since is None:
            self._unheard_since = time.monotonic()

    def heard(self, sojourns_ms: Sequence[float]) -> None:
        """Note an announcement, with the sojourn times of some of its intents."""
        self._unheard_since = None
        if not sojourns_ms:
            return
        self._heard_at = time.monotonic()
        sample = sum(sojourns_ms) / len(sojourns_ms)
        mean = self._mean_ms
        self._mean_ms = sample if mean is None else mean + _WEIGHT * (sample - mean)

    def wait_ms(self) -> int:
        """Return how long an outcome is likely to take, from acceptance."""
        mean = FALLBACK_MS if self._mean_ms is None else self._mean_ms
        return int(max(mean, self._silent_ms()))

    def true_ms(self, within_s: float) -> int | None:
        """Return how long outcomes have taken within the last while; None: there were none."""
        silent_ms = self._silent_ms()
        mean = self._mean_ms
        if mean is None or time.monotonic() - self._heard_at > within_s:
            return int(silent_ms) or None
        return int(max(mean, silent_ms))

    def _silent_ms(self) -> float:
        since = self._unheard_since
        return 0.0 if since is None else (time.monotonic() - since) * 1_000
