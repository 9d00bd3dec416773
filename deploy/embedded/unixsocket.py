"""Unix sockets: a convenience where the path is short enough for the kernel."""

from __future__ import annotations

from pathlib import Path

_PATH_LENGTH_MAX = 107  # bytes of sockaddr_un.sun_path, less the closing zero


def socket_in(folder: Path, name: str) -> Path | None:
    """Return the path of a socket in a folder; None when it would be too long to bind."""
    path = folder / name
    return path if len(str(path).encode()) <= _PATH_LENGTH_MAX else None
