"""The observer: reads once a second, beside a run, what the database says of a campaign."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psycopg

from deploy.load.frame import Observed
from workers.store.pool import AUDITOR, Bounds, Connection, connect

Look = Callable[[Connection], Observed]

_EVERY_S = 1.0
# A display that cannot be had at once is had a second later; it must not add to a pile of locks.
_BOUNDS = Bounds(statement_timeout_ms=2_000, lock_timeout_ms=200)


class Observer:
    """A thread with one read-only connection; a context manager.

    What cannot be read for a moment is shown as it was: a display never fails a run.
    """

    def __init__(self, dsn: str, look: Look) -> None:
        self._dsn = dsn
        self._look = look
        self._stop = threading.Event()
        self._latest: Observed | None = None
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)

    def latest(self) -> Observed | None:
        """Return what was read last; None before the first reading."""
        return self._latest

    def now(self) -> Observed:
        """Read once, here and now; raises psycopg.Error when it cannot be read."""
        with self._connect() as connection:
            return self._look(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=_BOUNDS.statement_timeout_ms / 1_000)

    def _watch(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(psycopg.Error), self._connect() as connection:
                while not self._stop.wait(_EVERY_S):
                    self._latest = self._look(connection)
            self._stop.wait(_EVERY_S)

    def _connect(self) -> Connection:
        return connect(self._dsn, AUDITOR, _BOUNDS, name="observer")
