"""Hearing outcomes: counts what workers announce, and how long it took.

Every committed outcome is announced once on a Valkey channel, with the database's times of its
acceptance and decision. So a listener knows how many are decided, and their sojourn times, to the
outcome and at no cost to the database. An announcement that was lost (Valkey was away, a worker died
between commit and announcement) is missed; while nothing can be heard it says so.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import redis
import structlog

from workers.contract import announce
from workers.contract.resource import unpack
from workers.service.govern import Heard

_log = structlog.get_logger()

SAMPLES_PER_BATCH: Final = 16  # outcomes whose times are read: enough for percentiles
SAMPLES_MAX: Final = 2_000  # kept between two looks; the newest count

_TURN_S: Final = 0.2  # how soon the thread notices that it is to end
_PING_S: Final = 1.0  # a silent channel is asked whether it lives
_SILENCE_S_MAX: Final = 3.0  # past it the connection counts as dead
_RECONNECT_S: Final = (0.1, 2.0)


class Listener:
    """Listens from a thread of its own, over as many connections as it takes."""

    def __init__(self, open_client: Callable[[], redis.Redis], channel: str) -> None:
        self._open_client = open_client
        self._channel = channel
        self._lock = threading.Lock()
        self._decided = 0
        self._sojourns_ms: list[float] = []
        self._unbroken = False  # whether all since the last look could be heard
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="hearing", daemon=True)
        self.listening = threading.Event()

    def start(self) -> None:
        """Begin to listen, now or whenever Valkey can be reached."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5 * _TURN_S)

    def take(self) -> Heard | None:
        """Return what was heard since the last call; None: not all of it could be heard."""
        with self._lock:
            heard = Heard(self._decided, self._sojourns_ms) if self._unbroken else None
            self._decided, self._sojourns_ms = 0, []
            self._unbroken = self.listening.is_set()
        return heard

    def _listen(self) -> None:
        pause_s = _RECONNECT_S[0]
        while not self._ending.is_set():
            try:
                with self._open_client() as client, client.pubsub() as channel:
                    channel.subscribe(self._channel)
                    self._hear(channel)
                    pause_s = _RECONNECT_S[0]
            except (redis.RedisError, OSError) as error:
                if self.listening.is_set():
                    _log.warning("outcomes not heard", error=type(error).__name__)
            self.listening.clear()
            with self._lock:
                self._unbroken = False
            self._ending.wait(pause_s * (0.5 + random.random()))
            pause_s = min(pause_s * 2, _RECONNECT_S[1])

    def _hear(self, channel: Any) -> None:  # redis-py leaves pub/sub untyped
        heard_at = pinged_at = time.monotonic()
        while not self._ending.is_set():
            message = channel.get_message(timeout=_TURN_S)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                if message["type"] == "subscribe":
                    self.listening.set()
                elif message["type"] == "message":
                    self._note(message["data"])
            elif now - heard_at > _SILENCE_S_MAX:
                raise redis.TimeoutError("the channel is silent")
            if now - pinged_at > _PING_S:
                channel.ping()
                pinged_at = now

    def _note(self, announcement: bytes) -> None:
        try:
            pairs = announce.decode(announcement)
        except announce.MalformedAnnouncement:
            _log.warning("announcement not readable", bytes=len(announcement))
            return
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
