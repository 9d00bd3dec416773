"""Faults of those who are told by webhook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.world import World


@contextlib.contextmanager
def away(world: World, fault: Fault) -> Iterator[str]:
    """Let the one sound receiver be away as well."""
    if world.receivers is None:
        raise NotDoneError("there are no receivers of webhooks")
    with world.receivers.without_the_sound_one():
        yield "the sound receiver is away"
