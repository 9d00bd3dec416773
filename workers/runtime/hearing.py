"""Hearing outcomes: counts what workers announce, and how long it took.

Every committed outcome is announced once on a Valkey channel, with the database's times of its
acceptance and decision. So a listener knows how many are decided, and their sojourn times, to the
outcome and at no cost to the database. An announcement that was lost (Valkey was away, a worker died
between commit and announcement) is missed; while nothing can be heard it says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec
import redis

from workers.contract.hearing import Hearing, Pairs
from workers.contract.resource import unpack
from workers.service.govern import Heard

SAMPLES_PER_BATCH: Final = 16  # outcomes whose times are read: enough for percentiles
SAMPLES_MAX: Final = 2_000  # kept between two looks; the newest count


class Listener:
    """Counts in the thread that hears; whoever looks takes what was counted."""

    def __init__(self, open_client: Callable[[], redis.Redis], channel: str) -> None:
        self._hearing = Hearing(open_client, channel, self._note, self._miss)
        self._lock = threading.Lock()
        self._decided = 0
        self._sojourns_ms: list[float] = []
        self._unbroken = False  # whether all since the last look could be heard
        self.listening = self._hearing.listening

    def start(self) -> None:
        """Begin to listen, now or whenever Valkey can be reached."""
        self._hearing.start()

    def close(self) -> None:
        """Stop listening."""
        self._hearing.close()

    def take(self) -> Heard | None:
        """Return what was heard since the last call; None: not all of it could be heard."""
        with self._lock:
            heard = Heard(self._decided, self._sojourns_ms) if self._unbroken else None
            self._decided, self._sojourns_ms = 0, []
            self._unbroken = self.listening.is_set()
        return heard

    def _miss(self) -> None:
        with self._lock:
            self._unbroken = False

    def _note(self, pairs: Pairs) -> None:
        every = max(1, len(pairs) // SAMPLES_PER_BATCH)
        sojourns_ms = [
            ms for _, packed in pairs[::every] if (ms := _sojourn_ms(packed)) is not None
        ]
        with self._lock:
            self._decided += len(pairs)
            self._sojourns_ms = (self._sojourns_ms + sojourns_ms)[-SAMPLES_MAX:]


def _sojourn_ms(packed: bytes) -> float | None:
    """Return how long an outcome took, by the database's clock; None: it cannot be read."""
    try:
        resource = unpack(packed)
    except msgspec.DecodeError:
        return None
    if resource.decided_at is None:
        return None
    return (resource.decided_at - resource.accepted_at).total_seconds() * 1_000
