"""Faults of Valkey: it forgets, stalls, is torn, is full."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from signal import Signals
from typing import Final

import redis

from deploy.chaos.harm.victims import NotDoneError, named, signal
from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from deploy.embedded import process
from deploy.embedded.process import Identity
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE

_STOPPED_S: Final = 0.1  # until nothing of it is written any more


@contextlib.contextmanager
def flush(world: World, fault: Fault) -> Iterator[str]:
    """Forget everything."""
    with _asked(world) as client:
        client.flushall()
    yield "flushed Valkey"


@contextlib.contextmanager
def unbind(world: World, fault: Fault) -> Iterator[str]:
    """Lose the queues, and what binds them."""
    with _asked(world) as client:
        bindings = list(client.scan_iter("_kombu.binding.*", count=1_000))
        lost = client.delete(ORDERS_QUEUE, INTAKE_QUEUE, "unacked", "unacked_index", *bindings)
    yield f"deleted queues and {len(bindings)} bindings: {lost} keys"


@contextlib.contextmanager
def pause(world: World, fault: Fault) -> Iterator[str]:
    """Take every command, and answer none."""
    with _asked(world) as client:
        client.client_pause(int(fault.for_s * 1_000), all=True)
    yield "Valkey answers nobody"


@contextlib.contextmanager
def full(world: World, fault: Fault) -> Iterator[str]:
    """Leave no memory to write with."""
    with _asked(world) as client:
        client.config_set("maxmemory", 1)
    try:
        yield "Valkey has no memory left"
    finally:
        with contextlib.suppress(redis.RedisError), world.valkey() as client:
            client.config_set("maxmemory", 0)


@contextlib.contextmanager
def empty(world: World, fault: Fault) -> Iterator[str]:
    """Come back with an empty folder."""
    victim = _stopped(world)
    for path in _append_only(world):
        shutil.rmtree(path, ignore_errors=True)
    signal([victim], Signals.SIGKILL)
    yield f"killed {named('valkey', [victim])} and emptied its folder"


@contextlib.contextmanager
def torn(world: World, fault: Fault) -> Iterator[str]:
    """Come back without the last bytes that it wrote."""
    victim = _stopped(world)
    torn_off = 0
    for folder in _append_only(world):
        for file in folder.glob("*.incr.aof"):
            size = file.stat().st_size
            torn_off = min(int(fault.amount), size)
            os.truncate(file, size - torn_off)
    signal([victim], Signals.SIGKILL)
    yield f"killed {named('valkey', [victim])}, and {torn_off} bytes of its file are lost"


def _append_only(world: World) -> list[Path]:
    return [path for path in (world.data / "valkey").glob("appendonly*") if path.is_dir()]


def _stopped(world: World) -> Identity:
    """Stop it, so that nothing is written between what is done to its files and its death."""
    victims = [one for one in map(process.identify, world.pids("valkey")) if one is not None]
    if not victims:
        raise NotDoneError("no valkey runs")
    signal(victims, Signals.SIGSTOP)
    process.until(lambda: _is_stopped(victims[0]), _STOPPED_S)
    return victims[0]


def _is_stopped(one: Identity) -> bool:
    try:
        stat = Path(f"/proc/{one.pid}/stat").read_text()
    except OSError:
        return True
    return stat[stat.rindex(")") + 2 :].split()[0] in "Tt"


@contextlib.contextmanager
def _asked(world: World) -> Iterator[redis.Redis]:
    """Open a client; what Valkey cannot be asked for just now is not done."""
    try:
        with world.valkey() as client:
            yield client
    except redis.RedisError as error:
        raise NotDoneError(f"Valkey cannot be asked ({error})") from error
