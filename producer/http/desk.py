"""The desk: what the API asks of PostgreSQL beside the intake, in threads, bounded.

Look-ups of intents are gathered into batches like intents themselves: when a campaign opens,
thousands poll at once, and one statement answers hundreds. Everything else is one job at a time.
Payments and cancels have threads of their own: no crowd of readers keeps them waiting. So have the
operators, who need their levers most when everything else is full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import psycopg
import structlog
from msgspec.structs import replace

from producer.batcher import Batcher, Bounds
from producer.http.problems import Code, Problem
from workers.contract.resource import IntentResource
from workers.store import resources
from workers.store.errors import Fault, fault_of
from workers.store.pool import Connection

_log = structlog.get_logger()

R = TypeVar("R")
Job = Callable[[Connection], Any]

# Waiting for a thread; beyond it nobody would wait long enough for the answer.
_PENDING_MAX: Final = 10_000
_CONTENTION_ATTEMPTS_MAX: Final = 3
_OPERATING_PENDING_MAX: Final = 20  # operators are few
_LEVER_TIMEOUT_MS: Final = 90_000  # beyond what its connection waits for a lock and a dry run


class _Failed(Enum):
    UNDONE = auto()  # surely without effect
    UNHEARD = auto()  # it may have been done


class _Excuses:
    def full(self, item: object, wait_ms: int) -> _Failed:
        return _Failed.UNDONE

    closing = full

    def unsent(self) -> _Failed:
        return _Failed.UNDONE

    def unheard(self) -> _Failed:
        return _Failed.UNHEARD


class _Session:
    """One thread's connection: opened when needed, opened again when it broke."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._connection: Connection | None = None

    def run(self, job: Callable[[Connection], R]) -> R | _Failed:
        """Do a job that may be repeated. A connection that broke idle is found out by using it."""
        began = False
        for attempt in range(1, _CONTENTION_ATTEMPTS_MAX + 1):
            old = self._connection is not None and not self._connection.closed
            try:
                if self._connection is None or not old:
                    self._connection = self._open()
                began = True
                return job(self._connection)
            except psycopg.Error as error:
                contended = fault_of(error) is Fault.CONTENTION
                broken = self._connection is None or self._connection.closed
                if (contended or (broken and old)) and attempt < _CONTENTION_ATTEMPTS_MAX:
                    continue
                _log.warning("store not asked", error=error)
                if not broken:
                    self.close()  # in whatever state it is: the next job starts clean
                return _Failed.UNHEARD if began and broken else _Failed.UNDONE
        raise AssertionError("the last attempt returns")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class _Jobs(_Session):
    def submit(self, batch: Sequence[Job]) -> list[Any]:
        return [self.run(job) for job in batch]


class _Reader(_Session):
    def submit(self, batch: Sequence[UUID]) -> list[IntentResource | _Failed | None]:
        found = self.run(lambda connection: resources.read_many(connection, list(set(batch))))
        if isinstance(found, _Failed):
            return [found for _ in batch]
        return [found.get(intent_id) for intent_id in batch]


class Desk:
    """Asks PostgreSQL for the API. Made and used on one event loop."""

    def __init__(
        self,
        open_reading: Callable[[], Connection],
        open_changing: Callable[[], Connection],
        open_operating: Callable[[], Connection],
        timeout_ms: int,
    ) -> None:
        """Say how to connect: as the producer, as who may change orders, as an operator."""

        def bounds(lanes: int, batch_max: int) -> Bounds:
            return Bounds(lanes, batch_max, _PENDING_MAX, timeout_ms)

        self._reader: Batcher[UUID, IntentResource | _Failed | None] = Batcher(
            "reader", lambda: _Reader(open_reading), _Excuses(), bounds(1, 500)
        )
        self._questions: Batcher[Job, Any] = Batcher(
            "questions", lambda: _Jobs(open_reading), _Excuses(), bounds(2, 1)
        )
        self._changes: Batcher[Job, Any] = Batcher(
            "changes", lambda: _Jobs(open_changing), _Excuses(), bounds(4, 1)
        )
        few = Bounds(1, 1, _OPERATING_PENDING_MAX, timeout_ms)
        self._overviews: Batcher[Job, Any] = Batcher(
            "overviews", lambda: _Jobs(open_operating), _Excuses(), few
        )
        self._levers: Batcher[Job, Any] = Batcher(
            "levers",
            lambda: _Jobs(open_operating),
            _Excuses(),
            replace(few, timeout_ms=_LEVER_TIMEOUT_MS),
        )
        self._all = (
            *(self._reader, self._questions, self._changes),
            *(self._overviews, self._levers),
        )

    async def read(self, intent_id: UUID) -> IntentResource | None:
        """Return what became of an intent so far, or None for an id unknown; raises Problem."""
        found = await self._reader.submit(intent_id)
        if isinstance(found, _Failed):
            raise _unreadable()
        return found

    async def ask(self, question: Callable[[Connection], R]) -> R:
        """Run a question in a thread; raises Problem when it cannot be answered."""
        answer = await self._questions.submit(question)
        if isinstance(answer, _Failed):
            raise _unreadable()
        return cast(R, answer)

    async def change(self, change: Callable[[Connection], R]) -> R:
        """Run a change that may be repeated safely; raises Problem when its end is not known."""
        return cast(R, _confirmed(await self._changes.submit(change)))

    async def oversee(self, question: Callable[[Connection], R]) -> R:
        """Run an operator's question; raises Problem when it cannot be answered."""
        answer = await self._overviews.submit(question)
        if isinstance(answer, _Failed):
            raise _unreadable()
        return cast(R, answer)

    async def pull(self, lever: Callable[[Connection], R]) -> R:
        """Pull a lever that may be pulled twice; raises Problem when its end is not known."""
        return cast(R, _confirmed(await self._levers.submit(lever)))

    async def drain(self) -> None:
        """Take nothing more; return when everything taken is answered."""
        for batcher in self._all:
            await batcher.drain()

    def close(self) -> None:
        """End the threads and their connections."""
        for batcher in self._all:
            batcher.close()


def _confirmed(answer: Any) -> Any:
    if isinstance(answer, _Failed):
        raise Problem(
            Code.CHANGE_UNCONFIRMED,
            "This could not be confirmed. Repeat it as it was: it takes effect once.",
            accepted="no" if answer is _Failed.UNDONE else "unknown",
            retry_after_ms=1_000,
        )
    return answer


def _unreadable() -> Problem:
    return Problem(
        Code.READING_UNAVAILABLE,
        "The journal cannot be read at present; this says nothing about what it holds.",
        retry_after_ms=1_000,
    )
