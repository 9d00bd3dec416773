"""What processes cost, as the kernel counts it: CPU time by process and thread, from /proc.

Linux only. The kernel counts in ticks (usually 10 ms), so a difference over ten seconds is good to
about a part in a thousand of one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cpu(Struct, frozen=True):
    """CPU seconds, in the program itself and in the kernel on its behalf."""

    user_s: float = 0.0
    system_s: float = 0.0

    def __add__(self, other: Cpu) -> Cpu:
        """Add up what two of them cost."""
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)

    def __sub__(self, other: Cpu) -> Cpu:
        """Tell what was spent since `other`."""
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.user_s + self.system_s


def of_process(pid: int) -> Cpu | None:
    """Return what a process has cost so far; None when it is gone."""
    return _read(f"/proc/{pid}/stat", 11)


def of_ended_children(pid: int) -> Cpu | None:
    """Return what the children of a process cost that ended and were waited for."""
    return _read(f"/proc/{pid}/stat", 13)


def of_threads(pid: int) -> dict[int, Cpu]:
    """Return what each living thread of a process has cost so far, by its id."""
    found = {}
    for task in _listing(f"/proc/{pid}/task"):
        cpu = _read(f"/proc/{pid}/task/{task}/stat", 11)
        if cpu is not None:
            found[int(task)] = cpu
    return found


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's children and of all theirs."""
    found: list[int] = []
    for task in _listing(f"/proc/{pid}/task"):
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def tree(pids: Iterable[int]) -> list[int]:
    """Return these processes with all that they started."""
    return [one for pid in pids for one in (pid, *descendants(pid))]


def spent(before: Cpu | None, after: Cpu | None) -> Cpu:
    """Tell what was spent between two looks; who was not there at one of them counts nothing."""
    if before is None or after is None:
        return Cpu()
    return after - before


def _read(stat: str, field: int) -> Cpu | None:
    try:
        text = Path(stat).read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold anything, brackets too.
    fields = text[text.rindex(")") + 2 :].split()
    return Cpu(int(fields[field]) / _TICKS_PER_S, int(fields[field + 1]) / _TICKS_PER_S)


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
