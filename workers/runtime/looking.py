"""Looking at dependencies that may be dead: each is asked in a thread of its own.

A stopped PostgreSQL keeps its sockets open and answers nothing; no time-out of its own helps then. So
whoever must go on asks a probe, and takes what it has in time: an answer, or how long it is waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import redis
import structlog
from msgspec import Struct

from workers.service.govern import Heard, Look, Scarcity
from workers.store.load import Load, LoadReader, read_balances
from workers.store.pool import Connection

_log = structlog.get_logger()

T = TypeVar("T")

# A plan is made once and kept while tables grow; rows are looked up by key.
_PLANS = "SET enable_seqscan = off"


class Answer(Struct, Generic[T], frozen=True):
    """What a probe knows. `ms` None: it failed, or takes too long; `value` None: not in time."""

    value: T | None
    ms: float | None


class Probe(Generic[T]):
    """Asks one dependency, one question at a time. Each has a thread that ends with its answer.

    A daemon thread: it may hang for ever, and then no other question is put.
    """

    def __init__(self, name: str, read: Callable[[], T], timeout_s: float) -> None:
        self._name = name
        self._read = read
        self._timeout_s = timeout_s
        self._answered = threading.Event()
        self._asked_at: float | None = None  # None: no question is open
        self._late: Answer[T] | None = None  # to the question before, which nobody has read
        self._value: T | None = None
        self._ms: float | None = None
        self._failing = False

    def ask(self) -> None:
        """Put the question, unless the last one is still open."""
        if self._asked_at is None or self._answered.is_set():
            self._late = None if self._asked_at is None else Answer(self._value, self._ms)
            self._answered.clear()
            self._asked_at = time.monotonic()
            threading.Thread(target=self._run, name=f"probe {self._name}", daemon=True).start()

    def answer(self, wait_s: float) -> Answer[T]:
        """Return the answer to the open question, waiting so long at most.

        If it does not come in time, the one that came too late for the question before will do. A
        dependency that failed counts as away until it answers, however long it takes to fail again.
        """
        if self._asked_at is None:
            raise AssertionError("an answer comes after its question")
        in_time = self._answered.wait(wait_s)
        late, self._late = self._late, None
        if in_time:
            self._asked_at = None
            return Answer(self._value, self._ms)
        if late is not None:
            return late
        waited_s = time.monotonic() - self._asked_at
        away = self._failing or waited_s >= self._timeout_s
        return Answer(None, None if away else waited_s * 1_000)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._value = self._read()
            self._ms = (time.monotonic() - began) * 1_000
            if self._failing:
                _log.info("answers again", dependency=self._name)
            self._failing = False
        except Exception as error:
            self._value = self._ms = None
            if not self._failing:
                _log.warning("does not answer", dependency=self._name, error=error)
            self._failing = True
        self._answered.set()


class PostgresLook(Struct, frozen=True):
    """What one look at PostgreSQL brought; `ms` is the load's own round trip."""

    ms: float
    load: Load
    balances: Scarcity | None


class PostgresLooker:
    """Reads load and, every `balances_interval_s`, balances, on one connection opened when needed."""

    def __init__(
        self, open_connection: Callable[[], Connection], balances_interval_s: float, scarce_max: int
    ) -> None:
        self._open = open_connection
        self._connection: Connection | None = None
        self._reader = LoadReader()
        self._balances_interval_s = balances_interval_s
        self._balances_at = 0.0
        self._scarce_max = scarce_max

    def read(self) -> PostgresLook:
        """Look once. Raises psycopg.Error; then the next look begins on a fresh connection."""
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
            self._connection.execute(_PLANS)
        try:
            return self._read(self._connection)
        except Exception:
            self._connection.close()
            raise

    def _read(self, connection: Connection) -> PostgresLook:
        began = time.monotonic()
        load = self._reader.read(connection)
        done = time.monotonic()
        balances = None
        if done - self._balances_at >= self._balances_interval_s:
            balances = read_balances(connection, self._scarce_max)
            self._balances_at = done
        return PostgresLook((done - began) * 1_000, load, balances)


class Sources:
    """All that the governor looks at, beside the gate. `wait_s` bounds what a look may take."""

    def __init__(
        self,
        hear: Callable[[], Heard | None],
        postgres: Callable[[], PostgresLook],
        valkey_memory_share: Callable[[], float | None],
        *,
        wait_s: float,
        timeout_s: float,
    ) -> None:
        self.hear = hear
        self._postgres = Probe("postgres", postgres, timeout_s)
        self._memory = Probe("valkey", valkey_memory_share, timeout_s)
        self._wait_s = wait_s

    def look(self) -> Look:
        """Ask both at once, and take what comes in time."""
        until = time.monotonic() + self._wait_s
        self._postgres.ask()
        self._memory.ask()
        postgres = self._postgres.answer(self._wait_s)
        memory = self._memory.answer(max(0.0, until - time.monotonic()))
        seen = postgres.value
        return Look(
            postgres_ms=postgres.ms if seen is None else seen.ms,
            load=None if seen is None else seen.load,
            balances=None if seen is None else seen.balances,
            valkey_memory_share=memory.value,
        )


def memory_share(client: redis.Redis) -> float | None:
    """Return the share of its memory that Valkey uses; None: it was given no bound."""
    memory = client.info("memory")
    bound = int(memory.get("maxmemory", 0))
    return int(memory["used_memory"]) / bound if bound else None
