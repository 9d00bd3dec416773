"""Faults of processes: death, sleep, absence, death at a named step, a wrong clock."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from signal import Signals
from typing import Final

from deploy.chaos.harm.victims import NotDoneError, chosen, named, signal
from deploy.chaos.plan import Fault
from deploy.chaos.world import World, write_offset
from deploy.embedded import process

_LOOK_S: Final = 0.05
_THREAD_END_S: Final = 2.0


@contextlib.contextmanager
def kill(world: World, fault: Fault) -> Iterator[str]:
    """Kill it as a power cut would: SIGKILL, no cleaning up. `amount`: if it lived so many seconds."""
    victims = chosen(world, fault, age_s_min=fault.amount)[:1]  # of a server, who leads it
    signal(victims, Signals.SIGKILL)
    yield f"killed {named(fault.target, victims)}"


@contextlib.contextmanager
def term(world: World, fault: Fault) -> Iterator[str]:
    """Ask it to end; kill it if it has not by the end of the fault."""
    victims = chosen(world, fault)
    signal(victims, Signals.SIGTERM)
    yield f"asked {named(fault.target, victims)} to end"
    signal(victims, Signals.SIGKILL)


@contextlib.contextmanager
def freeze(world: World, fault: Fault) -> Iterator[str]:
    """Stop it in whatever it does, and let it go on later."""
    victims = chosen(world, fault)
    signal(victims, Signals.SIGSTOP)
    try:
        yield f"stopped {named(fault.target, victims)}"
    finally:
        signal(victims, Signals.SIGCONT)


@contextlib.contextmanager
def away(world: World, fault: Fault) -> Iterator[str]:
    """Kill it whenever it comes back, until the fault is over."""
    over = threading.Event()

    def keep_away() -> None:
        while not over.wait(_LOOK_S):
            for pid in world.pids(fault.target):
                one = process.identify(pid)
                if one is not None:
                    process.send(one, Signals.SIGKILL)

    keeping = threading.Thread(target=keep_away, name=f"away-{fault.target}", daemon=True)
    keeping.start()
    try:
        yield f"{fault.target} is away"
    finally:
        over.set()
        keeping.join(_THREAD_END_S)


@contextlib.contextmanager
def failpoint(world: World, fault: Fault) -> Iterator[str]:
    """Arm a failpoint: whoever passes it next fires it, and disarms it again.

    It may fire after its time; the end of the run disarms them all.
    """
    marker = world.marker(fault.target)
    try:
        marker.unlink()
    except FileNotFoundError:
        raise NotDoneError(f"nobody came by {fault.target} yet") from None
    yield f"armed {fault.target}"


@contextlib.contextmanager
def skew(world: World, fault: Fault) -> Iterator[str]:
    """Move the wall clock of one process, and back."""
    file = world.offset(fault.target)
    if not file.exists():
        raise NotDoneError(f"nobody is called {fault.target}")
    write_offset(file, int(fault.amount))
    try:
        yield f"the clock of {fault.target} is off by {fault.amount:+,.0f} s"
    finally:
        write_offset(file, 0)
