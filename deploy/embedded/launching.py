"""How a program is started: through launch.py, so that it dies with us, and as whom."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from deploy.embedded import launch
from deploy.embedded.errors import EmbeddedError

# Numbers of linux/capability.h. Passing and reading what the file modes forbid:
_DAC_OVERRIDE = 1  # and executing; the only one of the two that containers usually have
_DAC_READ_SEARCH = 2  # and nothing more
# The least powerful first; the last for containers that lack the second.
_WAYS = ((), (_DAC_READ_SEARCH,), (_DAC_OVERRIDE, _DAC_READ_SEARCH), (_DAC_OVERRIDE,))
_ORDINARY_USERS = ("nobody", "postgres", "daemon")
_PROBE_TIMEOUT_S = 20


@dataclass(frozen=True)
class RunAs:
    """Another user to run as, with the capabilities it needs to reach its files."""

    uid: int
    gid: int
    capabilities: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Spell it as launch.py reads it."""
        return f"{self.uid}:{self.gid}:{','.join(map(str, self.capabilities))}"


def command(
    program: Sequence[str], folder: Path, death_signal: Signals, run_as: RunAs | None = None
) -> list[str]:
    """Return the command that becomes `program` in `folder`, ended by `death_signal` if we die.

    "We" is the thread that starts it: the kernel ties the signal to that thread's end.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve())]
    identity = str(run_as) if run_as else "-"
    return [*launcher, str(os.getpid()), str(int(death_signal)), identity, str(folder), *program]


def ordinary_user(probe: Sequence[str], folder: Path) -> RunAs | None:
    """Find as whom a program that refuses to be root can run; None: as we are, since we are not.

    Takes `folder` (and no other) over to that user. `probe` must succeed when the program's files
    can be reached. The least powerful way that works is taken. Raises EmbeddedError if none does.
    """
    if os.geteuid() != 0:
        return None
    owner = folder.stat().st_uid
    user = pwd.getpwuid(owner) if owner else _ordinary()
    complaint = ""
    for capabilities in _WAYS:
        run_as = RunAs(user.pw_uid, user.pw_gid, capabilities)
        complaint = _complaint(probe, folder, run_as)
        if not complaint:
            return run_as
    msg = (
        f"{probe[0]} refuses to run as root, and user {user.pw_name} cannot run it in {folder} "
        f"({complaint}). Run as an ordinary user, or keep the data and this checkout in folders "
        "that other users may pass, such as below /srv"
    )
    raise EmbeddedError(msg)


def _complaint(probe: Sequence[str], folder: Path, run_as: RunAs) -> str:
    """Try it; return why it fails, or nothing."""
    try:
        os.chown(folder, run_as.uid, run_as.gid)
    except PermissionError as refused:  # root without its powers, as in some containers
        return str(refused)
    tried = subprocess.run(
        command(probe, folder, Signals.SIGKILL, run_as),
        capture_output=True,
        text=True,
        timeout=_PROBE_TIMEOUT_S,
        check=False,
    )
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"code {tried.returncode}"


def _ordinary() -> pwd.struct_passwd:
    for name in _ORDINARY_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    msg = (
        "PostgreSQL refuses to run as root, and there is no user "
        f"{', '.join(_ORDINARY_USERS)}; run as an ordinary user"
    )
    raise EmbeddedError(msg)
