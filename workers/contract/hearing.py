"""Hearing what workers announce: one thread, over as many connections as it takes.

Announcements are heard or missed. Whoever counts on hearing asks `listening`; a silent channel is
asked whether it lives, so a dead connection is noticed within seconds.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis
import structlog

from workers.contract import announce

_log = structlog.get_logger()

Pairs = list[tuple[bytes, bytes]]  # of one announcement: `UUID.bytes`, and the record as announced

_TURN_S: Final = 0.2  # how soon the thread notices that it is to end
_PING_S: Final = 1.0
_SILENCE_S_MAX: Final = 3.0  # past it the connection counts as dead
_RECONNECT_S: Final = (0.1, 2.0)


class Hearing:
    """Calls `heard` with each announcement, in its own thread, until it is closed.

    `open_client` makes a client whose calls time out. `deaf` is called in the same thread whenever a
    connection has ended: from here on something may be missed.
    """

    def __init__(
        self,
        open_client: Callable[[], redis.Redis],
        channel: str,
        heard: Callable[[Pairs], None],
        deaf: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_client = open_client
        self._channel = channel
        self._heard = heard
        self._deaf = deaf
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hearing", daemon=True)
        self.listening = threading.Event()

    def start(self) -> None:
        """Begin to listen, now or whenever Valkey can be reached."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5 * _TURN_S)

    def _run(self) -> None:
        pause_s = first_s = _RECONNECT_S[0]
        while not self._ending.is_set():
            try:
                with self._open_client() as client, client.pubsub() as channel:
                    channel.subscribe(self._channel)
                    self._hear(channel)
            except (redis.RedisError, OSError) as error:
                if self.listening.is_set() or pause_s == first_s:
                    _log.warning("outcomes not heard", error=error)
            if self.listening.is_set():
                pause_s = first_s
            self.listening.clear()
            self._deaf()
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
                    self._read(message["data"])
            elif now - heard_at > _SILENCE_S_MAX:
                raise redis.TimeoutError("the channel is silent")
            if now - pinged_at > _PING_S:
                channel.ping()
                pinged_at = now

    def _read(self, announcement: bytes) -> None:
        try:
            pairs = announce.decode(announcement)
        except announce.MalformedAnnouncement:
            _log.warning("announcement not readable", bytes=len(announcement))
        else:
            self._heard(pairs)
