"""A systemd of our own: process 1 of namespaces in which it may do what it likes.

It sees no unit but ours, no generator, no device of this machine; the kernel's settings are read-only
to it, and its control groups are below one that is removed afterwards. Only the network is this
machine's, since the servers are there. Needs root and cgroup2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded import process

SYSTEMD = Path("/lib/systemd/systemd")
PYTHON = "/opt/python"  # inside: this machine's, which may be in a home folder, out of reach there
UP_WITHIN_S = 30

# Run by `unshare` as the first process of the namespaces; becomes systemd.
_BECOME = """\
set -e
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount -o remount,ro,bind /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /dev/null /dev/console
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt
mkdir /opt/tidegate /opt/python /run/units /run/upper /run/work
cp -r "$ROOM/units/." /run/units
mount --bind "$ROOM/opt/tidegate" /opt/tidegate
mount --bind "$BASE" /opt/python
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
cp -r "$ROOM/etc/." /etc
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount --make-rshared /
exec env -i container=tidegate-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=/nowhere \\
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nowhere \\
    "$PROGRAM" --system --unit=room.target --log-target=console --log-level=info --show-status=no
"""
# What every service depends on; in this room nothing of it has to be done.
_STANDARD = ("basic", "multi-user", "network-online", "room", "shutdown", "sysinit")


def why_not() -> str:
    """Say why this kernel gives us no such room; nothing, if it does."""
    if os.geteuid() != 0:
        return "only root may open namespaces"
    if _control_groups() is None:
        return "no cgroup2 is mounted"
    kinds = Path("/proc/filesystems").read_text().split()
    return "" if "overlay" in kinds else "the kernel has no overlay file system"


@dataclass
class Room:
    """A running systemd."""

    pid: int
    log: Path

    def systemctl(self, *words: str) -> str:
        """Run systemctl inside; return what it says, raise for what it refuses."""
        done = self._inside("systemctl", "--no-pager", *words)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.tail()}"
        return done.stdout

    def show(self, name: str, key: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={key}", name).strip()

    def tail(self) -> str:
        """What systemd and the services said last."""
        units = self._inside("systemctl", "--no-pager", "--full", "status", "tidegate*").stdout
        said = self._inside("sh", "-c", "tail -n 12 /run/*.log").stdout
        return f"{self.log.read_text()[-3_000:]}\n{units}\n{said}"

    def _inside(self, *line: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--cgroup", "--ipc"]
        return subprocess.run(
            [*enter, *line], capture_output=True, text=True, timeout=120, check=False
        )


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Room]:
    """Open a room on `units/`, `etc/` and `opt/tidegate/` of a folder."""
    for name in _STANDARD:
        (folder / "units" / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    base = _control_groups()
    assert base is not None
    group = base / f"tidegate-test-{os.getpid()}"
    group.mkdir()
    log = folder / "systemd.log"
    joining = f'echo $$ > "{group}/cgroup.procs"; exec "$@"'
    line = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    line += ["--uts", "--ipc", "--cgroup", "sh", "-c", _BECOME]
    with log.open("wb") as out:
        life = subprocess.Popen(
            ["sh", "-c", joining, "sh", *line],
            env={
                **os.environ,
                "ROOM": str(folder),
                "PROGRAM": str(SYSTEMD),
                "BASE": sys.base_prefix,
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield _up(life, log)
    finally:
        for pid in process.children(life.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # process 1: the kernel ends all others with it
        life.wait(30)
        _remove(group)


def _up(life: subprocess.Popen[bytes], log: Path) -> Room:
    """Wait until it takes commands."""
    found: list[Room] = []

    def takes_commands() -> bool:
        assert life.poll() is None, log.read_text()
        for pid in process.children(life.pid):
            if Path(f"/proc/{pid}/exe").resolve() != SYSTEMD.resolve():
                return False
            room = Room(pid, log)
            with contextlib.suppress(AssertionError):
                room.systemctl("is-active", "room.target")
                found.append(room)
        return bool(found)

    assert process.until(takes_commands, UP_WITHIN_S), log.read_text()
    return found[0]


def _control_groups() -> Path | None:
    """Where cgroup2 is mounted, alone or beside the first version."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def _remove(group: Path) -> None:
    """Remove a control group and those below; their processes are gone, or about to be."""

    def gone() -> bool:
        for one in sorted(group.rglob("*"), key=lambda path: -len(path.parts)):
            if one.is_dir():
                with contextlib.suppress(OSError):
                    one.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    process.until(gone, 10)
