"""What a story of the whole store is told with: a world of its own, workers that die, an intake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from kit import CODES, World
from psycopg import sql

from producer.intake import Intake
from tests.factories import admitting
from workers.domain.decide import decide
from workers.runtime.redispatcher import RedispatchStore
from workers.service.process_batch import Processor
from workers.service.redispatch import Bounds as HintBounds
from workers.service.redispatch import Redispatch
from workers.store.batch import Claim
from workers.store.pool import PRODUCER, WORKER, Bounds, connect
from workers.store.session import BatchSession

# A slow machine is no story.
PATIENT = Bounds(
    connect_timeout_s=60,
    statement_timeout_ms=60_000,
    lock_timeout_ms=60_000,
    idle_in_transaction_ms=60_000,
)
NEVER_MS = 3_600_000
HINTS_MAX = 3


@contextmanager
def own_world(empty_dsn: str, valkey_url: str) -> Iterator[World]:
    """A world on a copy of an unused database: a story that is told again must find nothing that its
    first telling has left, or it fails elsewhere and nobody learns why."""
    server, _, template = empty_dsn.rpartition("/")
    name = sql.Identifier(f"{template}_story")
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(create.format(name, sql.Identifier(template)))
        try:
            with World(f"{server}/{template}_story", valkey_url) as world:
                world.admin.execute("SET statement_timeout = 0")
                yield world
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


class Dead(BaseException):
    """The worker was killed: no handler of an error ran for it."""


class FrailSession(BatchSession):
    """A worker's session whose next commit meets its `fate`: killed or cut, before or after it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(lambda: connect(world.dsn, WORKER, PATIENT, name=name), name)
        self._world = world
        self.fate = ""

    def look_back(self, *, now: bool) -> None:
        """Say whether the next claim, and it alone, looks for what earlier ones passed over: that is a
        second's matter otherwise, and no story may depend on the clock."""
        self._look_back_at = 0.0 if now else float("inf")

    def claim(self, hinted: Sequence[UUID], limit: int) -> Claim:
        """Claim; only the first time with a look back."""
        claim = super().claim(hinted, limit)
        self.look_back(now=False)
        return claim

    def apply_and_commit(self, *given: Any, **more: Any) -> None:
        """Commit, as far as fate lets."""
        fate, self.fate = self.fate, ""
        if fate.endswith("before"):
            self._fall(fate)
        super().apply_and_commit(*given, **more)
        if fate:
            self._fall(fate)

    def _fall(self, fate: str) -> None:
        assert self._batch is not None
        # Until it is gone: an ending backend holds its rows, and the next claim skips those.
        pid = self._batch.info.backend_pid
        self._world.value("SELECT pg_terminate_backend(%s, 60000)", pid)
        self._batch.close()
        if fate.startswith("killed"):
            raise Dead
        raise psycopg.OperationalError("server closed the connection unexpectedly")


class Work:
    """A worker that is replaced when it dies."""

    def __init__(self, world: World, name: str, batch_max: int) -> None:
        self._world, self._name, self._batch_max = world, name, batch_max
        self._begin()

    def _begin(self) -> None:
        self.session = FrailSession(self._world, self._name)
        self.processor = Processor(
            self.session,
            lambda told, _: self._world.told.extend(told),
            batch_max=self._batch_max,
            decide=decide,
        )

    def run(self, hint: Sequence[UUID], *, looks_back: bool, fate: str, until: float = 0.0) -> int:
        """Process one message; return how many outcomes were committed and told."""
        self.session.look_back(now=looks_back)
        self.session.fate = fate
        try:
            return self.processor.run(hint, until=until).claimed
        except psycopg.OperationalError:
            return 0
        except Dead:
            self.session.close()
            self._begin()
            return 0
        finally:
            self.session.fate = ""

    def close(self) -> None:
        self.session.close()


def open_intake(world: World, publish: Callable[[Sequence[UUID]], None]) -> Intake:
    """An intake whose hints come due only when a story says so."""
    assert world.gate is not None
    return Intake(
        lambda: connect(world.dsn, PRODUCER, PATIENT, name="api"),
        world.gate,
        admitting(world.gate, CODES),
        publish,
        CODES,
        accept_timeout_ms=60_000,
        dispatch_after_ms=NEVER_MS,
    )


class _Store(RedispatchStore):
    """For which nothing is too young: a story has no clock."""

    def open_exists(self, young_ms: int) -> bool:
        return super().open_exists(-1_000)


def open_redispatch(
    world: World, broker: list[list[UUID]], batch_max: int
) -> tuple[_Store, Redispatch]:
    """A redispatcher on this broker."""
    store = _Store(lambda: connect(world.dsn, WORKER, PATIENT, name="redispatch"))
    bounds = HintBounds(
        hints_per_tick_max=HINTS_MAX,
        dispatch_after_ms=NEVER_MS,
        expire_batch_max=100,
        batch_max=batch_max,
    )
    duties = Redispatch(store, lambda ids: broker.append(list(ids)), lambda: len(broker), bounds)
    return store, duties
