"""Who uses the processors: CPU seconds by process, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.embedded import process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Roles = Callable[[], Mapping[str, list[int]]]


def cpu_seconds(roles: Mapping[str, list[int]]) -> dict[str, float]:
    """Return the CPU seconds of each role so far: its processes and all they started.

    `sender` is this process alone; `others` is what everybody else on the machine used.
    """
    found = {role: _sum_of(pids) for role, pids in roles.items() if not role.endswith("-child")}
    found["sender"] = _own(os.getpid())
    found["others"] = _machine() - sum(found.values())
    return found


def shares(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> dict[str, float]:
    """Return what each used between two readings, as shares of one core."""
    return {role: (after[role] - before.get(role, 0.0)) / seconds for role in after}


def _sum_of(pids: list[int]) -> float:
    return sum(_own(pid) + _sum_of(process.children(pid)) for pid in pids)


def _own(pid: int) -> float:
    """CPU seconds of a process, and of children that ended and were waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    ticks = stat[stat.rindex(")") + 2 :].split()[11 : 13 if pid == os.getpid() else 15]
    return sum(map(int, ticks)) / _TICKS_PER_S


def _machine() -> float:
    """CPU seconds of the whole machine, of all its cores: neither idle nor waiting for disks."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S
