"""Faults of the network between machines: the kernel drops packets, and tells nobody."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.world import World


@contextlib.contextmanager
def cable(world: World, fault: Fault) -> Iterator[str]:
    """Pull the cable of the worker that is apart, mute its servers for it, or make it narrow."""
    apart = world.apart
    if apart is None:
        raise NotDoneError("nobody is apart")
    ways = {"unplugged": apart.unplugged, "mute": apart.mute, "narrow": apart.narrow}
    try:
        with ways[fault.target]():
            yield f"the cable of the worker that is apart: {fault.target}"
    except (OSError, subprocess.SubprocessError) as failed:
        raise NotDoneError(f"the cable cannot be changed ({failed})") from failed
