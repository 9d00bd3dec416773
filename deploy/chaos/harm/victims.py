"""Victims: choosing processes, and signalling exactly the chosen ones."""

from __future__ import annotations

from collections.abc import Sequence
from signal import Signals

from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from deploy.embedded import process
from deploy.embedded.process import Identity

# Roles that are harmed whole: one backend more or less is no outage of the server.
_WHOLE = ("postgres",)


class NotDoneError(Exception):
    """There is nothing to harm just now."""


def chosen(world: World, fault: Fault, *, age_s_min: float = 0.0) -> list[Identity]:
    """Return the fault's victim, or the whole server with its children.

    Spared are those who have not lived for `age_s_min`. Raises NotDoneError.
    """
    pids = [pid for pid in world.pids(fault.target) if process.age_s(pid) >= age_s_min]
    if not pids:
        raise NotDoneError(f"no {fault.target} runs" + (" for long enough" if age_s_min else ""))
    if fault.target in _WHOLE:
        pids = [*pids, *world.pids(f"{fault.target}-backend")]
    else:
        pids = [pids[int(fault.pick * len(pids))]]
    found = [one for one in map(process.identify, pids) if one is not None]
    if not found:
        raise NotDoneError(f"{fault.target} ended a moment ago")
    return found


def signal(victims: Sequence[Identity], number: Signals) -> None:
    """Signal them all; nothing happens to those that are gone."""
    for victim in victims:
        process.send(victim, number)


def named(target: str, victims: Sequence[Identity]) -> str:
    """Name victims in a log."""
    first, more = victims[0].pid, len(victims) - 1
    return f"{target} {first}" + (f" and {more} children" if more else "")
