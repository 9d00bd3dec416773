"""Faults of the network: what the proxies do to the bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, cast

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.proxy import Proxy, Way
from deploy.chaos.world import World

_CUT_SHARE: Final = 0.3


@contextlib.contextmanager
def delay(world: World, fault: Fault) -> Iterator[str]:
    """Let everything come late, unevenly."""
    proxy = _proxy(world, fault.target)
    proxy.weather.delay_s = fault.amount
    try:
        yield f"{fault.target} is {fault.amount * 1_000:.0f} ms away"
    finally:
        proxy.weather.delay_s = 0.0


@contextlib.contextmanager
def rate(world: World, fault: Fault) -> Iterator[str]:
    """Let hardly anything through: so many bytes a second on each connection."""
    proxy = _proxy(world, fault.target)
    proxy.weather.bytes_per_s = fault.amount
    try:
        yield f"{fault.target} at {fault.amount * 8 / 1_000:.0f} kbit/s"
    finally:
        proxy.weather.bytes_per_s = 0.0


@contextlib.contextmanager
def slices(world: World, fault: Fault) -> Iterator[str]:
    """Let bytes come one by one."""
    proxy = _proxy(world, fault.target)
    proxy.weather.sliced = True
    try:
        yield f"{fault.target} in single bytes"
    finally:
        proxy.weather.sliced = False


@contextlib.contextmanager
def cut(world: World, fault: Fault) -> Iterator[str]:
    """Cut a share of the connections in the middle of what they are saying."""
    count = _proxy(world, fault.target).cut(_CUT_SHARE)
    if not count:
        raise NotDoneError(f"nobody is connected to {fault.target}")
    yield f"cut {count} connections to {fault.target}"


@contextlib.contextmanager
def hole(world: World, fault: Fault) -> Iterator[str]:
    """Let bytes vanish in one direction, or both; no connection is closed."""
    target, _, way = fault.target.partition(" ")
    proxy = _proxy(world, target)
    ways = {"there", "back"} if way == "both" else {way}
    proxy.weather.holes |= cast(set[Way], ways)
    try:
        yield f"{target} hears or says nothing ({way})"
    finally:
        proxy.weather.holes -= ways


@contextlib.contextmanager
def lost_reply(world: World, fault: Fault) -> Iterator[str]:
    """Let the next commit happen, and its reply be lost with its connection.

    The journal's statement commits by itself; on the wire nothing else carries our keys.
    """
    proxy = _proxy(world, "postgres")
    journal = fault.target == "journal"
    proxy.weather.lose_reply_to = f"{world.campaign_id}-".encode() if journal else b"COMMIT"
    yield f"the reply to the next commit of {fault.target} is lost"


def _proxy(world: World, target: str) -> Proxy:
    if target not in world.proxies:
        raise NotDoneError(f"no proxy before {target}")
    return world.proxies[target]
