"""The data folder of an embedded cluster: whose it is, what it keeps, what a dead one left there.

    DATA/.tidegate        says that the folder is ours
    DATA/lock             held (flock) by the supervisor that uses it; the kernel frees it on death
    DATA/state.json       passwords, keys and ports that a later start uses again
    DATA/endpoints.json   where everything is, while it runs
    DATA/logs/NAME.log    one per process
    DATA/.temporary       says that nobody wants the folder once its supervisor is gone
    DATA/postgres/ DATA/valkey/ DATA/rabbitmq/

Folders above DATA are never changed; DATA is opened to others (execute only) when we made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from signal import Signals

import msgspec

from deploy.embedded import process
from deploy.embedded.errors import EmbeddedError

_MARK = ".tidegate"
_MARK_TEXT = "A data folder of `tidegate dev`, layout 1. Delete the whole folder to forget it.\n"
_TEMPORARY = ".temporary"  # made under the lock: who finds it with the lock free finds a dead one's
_TEMPORARY_NAME = "tidegate-"
_GRACE_S = 5  # for PostgreSQL to end its backends in an immediate shutdown


class State(msgspec.Struct):
    """What a cluster must find again on the same data."""

    postgres_password: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    valkey_password: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    rabbitmq_password: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    master: str = msgspec.field(default_factory=lambda: secrets.token_hex(32))
    postgres_port: int = 0
    valkey_port: int = 0
    rabbitmq_ports: tuple[int, int, int] = (0, 0, 0)  # clients', nodes', and of the nodes' names
    api_key: str = ""


class DataFolder:
    """A locked data folder. Close it to let another supervisor in."""

    def __init__(self, path: Path | None) -> None:
        """Make or open the folder and lock it; None makes one that is removed by `close`.

        Raises EmbeddedError when it is another's: another supervisor's, user's or program's.
        """
        self.temporary = path is None
        self._lock_fd = -1
        try:
            self.path = _open(path)
            self._lock_fd = _lock(self.path)
            self.logs = _subfolder(self.path / "logs")
            self.state = _state_of(self.path)
            if self.temporary:
                (self.path / _TEMPORARY).touch()
                _sweep(self.path.parent)
        except PermissionError as refused:
            self.close()
            msg = (
                f"{refused.filename}: {refused.strerror}; give --data a folder that you may "
                "write to, or run as the user who made this one"
            )
            raise EmbeddedError(msg) from refused
        except BaseException:
            self.close()
            raise

    def subfolder(self, name: str) -> Path:
        """Make a folder inside, private to its owner."""
        return _subfolder(self.path / name)

    def save_state(self) -> None:
        """Write the state down, readable by us only."""
        write_private(self.path / "state.json", msgspec.json.encode(self.state))

    def end_leftovers(self) -> list[int]:
        """End what a supervisor that died left running on this folder; return its pids."""
        found = process.of_cluster(self.path)
        for one in found:
            # PostgreSQL ends its backends when told to quit; SIGKILL would leave them to find out.
            process.send(one, Signals.SIGQUIT)
        for one in process.await_end(found, _GRACE_S):
            process.send(one, Signals.SIGKILL)
        stuck = process.await_end(found, _GRACE_S)
        if stuck:
            pids = ", ".join(str(one.pid) for one in stuck)
            msg = f"{self.path}: processes of an earlier start will not end; kill them: {pids}"
            raise EmbeddedError(msg)
        (self.path / "endpoints.json").unlink(missing_ok=True)
        return [one.pid for one in found]

    def close(self) -> None:
        """Unlock, and remove the folder if it was temporary."""
        if self.temporary and hasattr(self, "path"):
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def read_state(data: Path) -> State:
    """Return what a cluster on `data` has written down; raises FileNotFoundError if nothing."""
    return msgspec.json.decode((data / "state.json").read_bytes(), type=State)


def write_private(file: Path, content: bytes) -> None:
    """Replace a file in one step, readable by us only: readers see the old one or the new one."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
    draft.replace(file)


def _open(path: Path | None) -> Path:
    if path is None:
        made = Path(tempfile.mkdtemp(prefix=_TEMPORARY_NAME)).resolve()
        made.chmod(0o711)
    else:
        made = path.expanduser().resolve()
        if not made.exists():
            made.mkdir(parents=True)
            made.chmod(0o711)  # PostgreSQL may run as another user, who must pass but not look
    if not made.is_dir():
        msg = f"{made} is not a folder; give --data a folder"
        raise EmbeddedError(msg)
    if not (made / _MARK).exists():
        if any(made.iterdir()):
            msg = f"{made} holds files that are not Tidegate's; give --data a new or empty folder"
            raise EmbeddedError(msg)
        (made / _MARK).write_text(_MARK_TEXT)
    return made


def _lock(path: Path) -> int:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        msg = (
            f"{path} is in use by another cluster (pid {holder}); stop that one, or give --data "
            "another folder"
        )
        raise EmbeddedError(msg) from None
    os.truncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _state_of(path: Path) -> State:
    try:
        return read_state(path)
    except FileNotFoundError:
        return State()
    except msgspec.DecodeError as broken:
        msg = f"{path}/state.json cannot be read ({broken}); give --data another folder"
        raise EmbeddedError(msg) from broken


def _sweep(folder: Path) -> None:
    """Remove temporary data folders of ours whose supervisor was killed: they are of no more use."""
    for path in folder.glob(f"{_TEMPORARY_NAME}*"):
        with contextlib.suppress(OSError, EmbeddedError):
            if path.stat().st_uid != os.geteuid() or not (path / _TEMPORARY).exists():
                continue
            fd = _lock(path)
            try:
                if not process.of_cluster(path):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _subfolder(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    return path
