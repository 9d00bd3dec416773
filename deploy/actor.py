"""Who acts: the name under which an operator's command is recorded."""

from __future__ import annotations

import getpass
import socket


def whoami() -> str:
    """Name who runs this, for the record of operators' actions."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        login = "unknown"
    return f"{login}@{socket.gethostname()}"
