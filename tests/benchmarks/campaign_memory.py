"""Memory by process name, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.embedded import process


def memory_mib(roles: Mapping[str, list[int]]) -> dict[str, float]:
    """Return the resident memory of each role, in MiB: its processes and all they started.

    Proportional (Pss): a page that n processes share counts 1/n for each, so that the many processes
    of PostgreSQL do not count its shared buffers many times. `sender` is this process alone.
    """
    found = {
        role: sum(map(_pss_kib, _family(pids))) / 1024
        for role, pids in roles.items()
        if not role.endswith("-child")
    }
    found["sender"] = _pss_kib(os.getpid()) / 1024
    return {role: round(mib, 1) for role, mib in found.items()}


def _family(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    left = list(pids)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += process.children(pid)
    return found


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended, or belongs to another user
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
