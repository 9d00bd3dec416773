"""What this machine offers to faults that need more than signals."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Final

from deploy.chaos import apart, deadly
from deploy.embedded import rabbitmq

_TIMEOUT_S: Final = 20
_SHIM: Final = Path(__file__).with_name("skew.c")


@cache
def lack(need: str) -> str:
    """Say why a need is not met here; empty where it is."""
    if need == "cc":
        return _no_shim()
    if need == "mount":
        return _no_mount()
    if need == "rabbitmq-server":
        return rabbitmq.lack()
    if need == "cgroup":
        return deadly.lack()
    if need == "netns":
        return apart.lack()
    raise AssertionError(f"nobody knows how to look for {need}")


def why_not(needs: tuple[str, ...]) -> str:
    """Say why something with these needs cannot run here; empty where it can."""
    return "; ".join(filter(None, map(lack, needs)))


def build_shim(folder: Path) -> Path:
    """Build the clock's shim into `folder`. Raises OSError or CalledProcessError where it cannot."""
    built = folder / "skew.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(built), str(_SHIM), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
    built.chmod(0o644)
    return built


def mount_small(folder: Path, size_mb: int) -> None:
    """Mount a small disk of memory on `folder`. Raises CalledProcessError or OSError."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tidegate-chaos"]
    subprocess.run([*command, str(folder)], check=True, capture_output=True, timeout=_TIMEOUT_S)


def unmount(folder: Path) -> None:
    """Take such a disk away again, used or not."""
    subprocess.run(
        ["umount", "-l", str(folder)], check=False, capture_output=True, timeout=_TIMEOUT_S
    )


def _no_shim() -> str:
    if shutil.which("cc") is None:
        return "no C compiler (`cc`) to build the clock's shim with"
    with tempfile.TemporaryDirectory() as folder:
        try:
            shim = build_shim(Path(folder))
            offset = Path(folder) / "offset"
            offset.write_bytes((7_200).to_bytes(8, sys.byteorder, signed=True))
            said = subprocess.run(
                [sys.executable, "-c", "import time; print(time.time())"],
                env={"LD_PRELOAD": str(shim), "SKEW_FILE": str(offset)},
                check=True,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as failed:
            return f"the clock's shim does not build or load ({failed})"
    return (
        "" if float(said.stdout) > time.time() + 7_000 else "the clock's shim moves no clock here"
    )


def _no_mount() -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount_small(Path(folder), 1)
        except (OSError, subprocess.SubprocessError):
            return "mounting a small disk needs root"
        unmount(Path(folder))
    return ""
