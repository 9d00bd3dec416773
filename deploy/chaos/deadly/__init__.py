"""Deadly intents: some wishes kill the process that decides them, as a bug of ours or its data might.

Workers are started with `sitecustomize.py` of this folder on their path, and in a memory cgroup of
their own each, where the kernel kills who takes too much.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.embedded import process
from deploy.embedded.child import Child

SEGFAULT: Final = "u-deadly-segfault"  # the users whose wishes are deadly
HOG: Final = "u-deadly-hog"

# A worker and its child take about half of it; who is killed at it has not grown beyond the bound that
# every process is held to.
_MEMORY_MAX: Final = 224 * 1024 * 1024
_GROUPS: Final = Path("/sys/fs/cgroup/memory")
_GONE_S: Final = 5.0


@contextlib.contextmanager
def exposed(child: Child) -> Iterator[Child]:
    """Return a worker whose children deadly intents kill; others stay as they are."""
    if child.role != "worker":
        yield child
        return
    with _group(f"tidegate-{os.getpid()}-{child.name}") as group:
        path = f"{Path(__file__).parent}:{child.environ.get('PYTHONPATH', '')}"
        join = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        yield dataclasses.replace(
            child,
            program=("/bin/sh", "-c", join, "sh", *child.program),
            environ={**child.environ, "PYTHONPATH": path, "CHAOS_DEADLY": "1"},
        )


def lack() -> str:
    """Say why the kernel cannot kill for memory here; empty where it can."""
    try:
        with _group(f"tidegate-{os.getpid()}-look"):
            return ""
    except OSError:
        return "killing for memory needs root and a memory cgroup of version 1"


@contextlib.contextmanager
def _group(name: str) -> Iterator[Path]:
    group = _GROUPS / name
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(_MEMORY_MAX))
        yield group
    finally:
        process.until(lambda: _removed(group), _GONE_S)


def _removed(group: Path) -> bool:
    """Remove the group; not possible while the last of its processes is ending."""
    with contextlib.suppress(FileNotFoundError):
        try:
            group.rmdir()
        except OSError:
            return False
    return True
