"""Faults of PostgreSQL: it stops, cuts its clients, is crowded, locked, held back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import Signals
from typing import Final

import psycopg

from deploy.chaos.harm.victims import NotDoneError, chosen, named, signal
from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL: Final = queries("chaos")
_CROWD_LANES: Final = 12  # the crowd comes at once: one by one it takes seconds
_CROWD_LANE_MAX: Final = 20  # together more than the embedded server takes


@contextlib.contextmanager
def stop(world: World, fault: Fault) -> Iterator[str]:
    """Stop immediately: every session is cut, and the log is recovered at the next start."""
    server = Fault(at_s=0, kind="", target="postgres")
    victims = chosen(world, server)[:1]
    signal(victims, Signals.SIGQUIT)
    yield f"immediate stop of {named('postgres', victims)}"


@contextlib.contextmanager
def terminate(world: World, fault: Fault) -> Iterator[str]:
    """Cut one connection from the server's side."""
    with _asked(world) as connection:
        pids = [row[0] for row in connection.execute(_SQL.backends_read)]
        if not pids:
            raise NotDoneError("nobody is connected")
        pid = pids[int(fault.pick * len(pids))]
        connection.execute(_SQL.backend_terminate, {"pid": pid})
    yield f"terminated backend {pid}"


@contextlib.contextmanager
def crowd(world: World, fault: Fault) -> Iterator[str]:
    """Hold every connection that is to be had."""
    held: list[Connection] = []

    def come(lane: int) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(_CROWD_LANE_MAX):
                connection = world.postgres()
                held.append(connection)

    with ThreadPoolExecutor(_CROWD_LANES) as lanes:
        list(lanes.map(come, range(_CROWD_LANES)))
    try:
        if not held:
            raise NotDoneError("PostgreSQL takes no connection")
        yield f"held {len(held)} connections"
    finally:
        for connection in held:
            connection.close()


@contextlib.contextmanager
def lock(world: World, fault: Fault) -> Iterator[str]:
    """Hold what every batch has to lock."""
    with _held(world) as connection:
        connection.execute(_SQL[fault.target], {"campaign_id": world.campaign_id})
        yield f"held {fault.target.replace('_', ' ')}"


@contextlib.contextmanager
def snapshot(world: World, fault: Fault) -> Iterator[str]:
    """Hold a snapshot: nothing that dies after it can be vacuumed."""
    with _held(world) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(_SQL.snapshot_taken)
        yield "held a snapshot"


@contextlib.contextmanager
def _held(world: World) -> Iterator[Connection]:
    """Open a transaction that does nothing; rolled back in the end."""
    try:
        connection = world.postgres(autocommit=False)
    except psycopg.Error as error:
        raise NotDoneError(f"PostgreSQL cannot be asked ({error})") from error
    try:
        yield connection
    except psycopg.Error as error:
        raise NotDoneError(f"not to be had ({error})") from error
    finally:
        connection.close()


@contextlib.contextmanager
def _asked(world: World) -> Iterator[Connection]:
    try:
        with contextlib.closing(world.postgres()) as connection:
            yield connection
    except psycopg.Error as error:
        raise NotDoneError(f"PostgreSQL cannot be asked ({error})") from error
