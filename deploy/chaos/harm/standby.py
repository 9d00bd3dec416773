"""Faults that a standby is for: it falls behind, it takes over, and the server before comes back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from signal import Signals
from typing import Final

import psycopg
import redis

from deploy.chaos.harm import processes
from deploy.chaos.harm.victims import NotDoneError, chosen, named, signal
from deploy.chaos.plan import Fault
from deploy.chaos.standby import PostgresStandby, Standby, ValkeyStandby
from deploy.chaos.world import World
from deploy.embedded import process
from workers.store.sql import queries

_SQL: Final = queries("chaos")
_TWO_LEADERS_S: Final = 0.7  # until the one before is told
_STAYED_SHARE: Final = 0.5  # of the connections stay with the one before, as far as it is up to us
_DEAD_S: Final = 5.0


@contextlib.contextmanager
def behind(world: World, fault: Fault) -> Iterator[str]:
    """Let nothing come to the standby: what waits for it waits."""
    weather = _standby(world).link.weather
    weather.holes |= {"back"}
    try:
        yield "the standby hears nothing"
    finally:
        weather.holes -= {"back"}


@contextlib.contextmanager
def cancel_waits(world: World, fault: Fault) -> Iterator[str]:
    """Cancel every commit that waits for the standby, of connections with the target's name."""
    try:
        with contextlib.closing(world.postgres()) as connection:
            row = connection.execute(
                _SQL.standby_waits_cancelled, {"name": f"tidegate-{fault.target}"}
            ).fetchone()
    except psycopg.Error as error:
        raise NotDoneError(f"PostgreSQL cannot be asked ({error})") from error
    if row is None or not row[0]:
        raise NotDoneError("no commit waits")
    yield f"cancelled {row[0]} waits for the standby"


@contextlib.contextmanager
def valkey_failover(world: World, fault: Fault) -> Iterator[str]:
    """Let the standby fall behind, and then take over.

    For a moment there are two leaders; connections that are not cut stay with the one before, which
    then follows, and takes no writes any more.
    """
    standby = _standby(world)
    if not isinstance(standby, ValkeyStandby):
        raise NotDoneError("Valkey has no standby")
    with behind(world, fault):
        yield "the standby of Valkey falls behind, and takes over"
        with contextlib.suppress(redis.RedisError):
            world.leaders["valkey"] = standby.take_over()
    world.proxies["valkey"].cut(1 - _STAYED_SHARE)
    time.sleep(_TWO_LEADERS_S)
    with contextlib.suppress(redis.RedisError):
        standby.demote_other()


@contextlib.contextmanager
def postgres_failover(world: World, fault: Fault) -> Iterator[str]:
    """Kill the server and let the standby take over; the one before comes back in the end.

    Then nobody asks it any more: its address is another's.
    """
    standby = _standby(world)
    if not isinstance(standby, PostgresStandby):
        raise NotDoneError("PostgreSQL has no standby")
    server = Fault(at_s=0, kind="", target="postgres")
    victims = chosen(world, server)
    world.spent = True
    with processes.away(world, server):
        signal(victims, Signals.SIGKILL)
        process.await_end(victims, _DEAD_S)
        world.leaders["postgres"] = standby.take_over()
        yield f"killed {named('postgres', victims)}; the standby took over"


def _standby(world: World) -> Standby:
    if world.standby is None:
        raise NotDoneError("there is no standby")
    return world.standby
