"""What the supervisor is told about a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from deploy.embedded.launching import RunAs


def _at_once() -> bool:
    return True


@dataclass(frozen=True)
class Child:
    """A process to be kept running."""

    name: str  # unique; its log is NAME.log
    role: str  # under which its pid is listed; several children may share it
    program: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path  # its working folder, inside the data folder
    ready: Callable[[], bool] = _at_once  # asked after the first start only
    ready_timeout_s: float = 30
    stop_signal: Signals = Signals.SIGTERM
    stop_timeout_s: float = 10  # then SIGKILL
    death_signal: Signals = Signals.SIGKILL  # when the supervisor itself dies
    run_as: RunAs | None = None
    # The role under which its own children are listed; None: they are not.
    forks_role: str | None = None
