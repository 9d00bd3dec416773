"""Processes of this machine, told apart by pid and start time, since pids are used again.

Reads /proc, so Linux only. A pid file would be trusted by a later start and may name a stranger;
what /proc says now is asked instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Present in the environment of every process of a cluster and of their children.
MARKER = "EMBEDDED_TIDEGATE_DATA"
# Programs that write their title over their environment; these are known by their folder.
_SERVERS = ("postgres", "valkey-server")


class Identity(NamedTuple):
    """One process, for ever."""

    pid: int
    started: int  # clock ticks since boot


def identify(pid: int) -> Identity | None:
    """Return who runs under `pid`; None when nobody does, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold anything, brackets too.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return None if state in "ZX" else Identity(pid, int(fields[18]))


def age_s(pid: int) -> float:
    """Return for how many seconds the process has run; 0 when nobody does under this pid."""
    one = identify(pid)
    if one is None:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - one.started / _TICKS_PER_S


def children(pid: int) -> list[int]:
    """Return the pids of a process's living children."""
    found: list[int] = []
    for task in _listing(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return sorted(child for child in found if identify(child) is not None)


def of_cluster(data: Path) -> list[Identity]:
    """Find every process that a cluster on this data folder started and left behind."""
    mark = f"{MARKER}={data}".encode()
    return [one for one in _everyone() if _carries(one.pid, mark) or _serves(one.pid, data)]


def send(one: Identity, number: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it is gone or may not be signalled."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(one.pid)
        try:
            if identify(one.pid) == one:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def await_end(those: Iterable[Identity], timeout_s: float) -> list[Identity]:
    """Wait until they are gone; return those that are still there."""
    left = list(those)
    until(lambda: not _keep_alive(left), timeout_s)
    return left


def until(fact: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a fact; tell whether it came."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _keep_alive(those: list[Identity]) -> list[Identity]:
    those[:] = [one for one in those if identify(one.pid) == one]
    return those


def _everyone() -> Iterator[Identity]:
    for name in _listing("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            one = identify(int(name))
            if one is not None:
                yield one


def _carries(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _serves(pid: int, data: Path) -> bool:
    try:
        program = Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return False
    return program in _SERVERS and folder.is_relative_to(data)


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
