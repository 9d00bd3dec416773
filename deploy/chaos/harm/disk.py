"""Faults of disks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.world import World

_BLOCK: Final = bytes(64 * 1024)
_FILLED_MAX: Final = 64 * 1024 * 1024  # many times the small disk: never fill a real one


@contextlib.contextmanager
def full(world: World, fault: Fault) -> Iterator[str]:
    """Fill the small disk that holds the logs, and free it again."""
    if not world.variety.log_disk:
        raise NotDoneError("the logs have no disk of their own")
    filler = world.data / "logs" / "filler"
    filled = 0
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while filled < _FILLED_MAX:
                filled += out.write(_BLOCK)
        yield f"the logs' disk is full ({filled // 1024} KiB more)"
    finally:
        filler.unlink(missing_ok=True)
