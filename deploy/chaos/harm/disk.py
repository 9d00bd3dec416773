"""Faults of disks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import psycopg

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from workers.store.sql import queries

_SQL: Final = queries("chaos")
_BLOCK: Final = bytes(64 * 1024)


@contextlib.contextmanager
def full(world: World, fault: Fault) -> Iterator[str]:
    """Fill the small disk that holds the target's folder, and free it again."""
    folder = world.data / fault.target
    # Only ever a disk that was mounted for it: never fill a real one.
    if fault.target not in world.variety.disks or not folder.is_mount():
        raise NotDoneError(f"{fault.target} has no disk of its own")
    filler = folder / "filler"
    filled = 0
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while True:
                filled += out.write(_BLOCK)
        if fault.target == "postgres":
            _need_a_new_segment(world)
        yield f"the disk of {fault.target} is full ({filled // 1024} KiB more)"
    finally:
        filler.unlink(missing_ok=True)


def _need_a_new_segment(world: World) -> None:
    """Let the log go on in a file that there is no room for, instead of the rest of its present one."""
    with contextlib.suppress(psycopg.Error), contextlib.closing(world.postgres()) as connection:
        connection.execute(_SQL.segment_ended)
