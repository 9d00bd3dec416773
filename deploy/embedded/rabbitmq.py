"""An embedded RabbitMQ: the broker of one cluster that was asked for it; Debian's package serves.

A node of our own beside any other on the machine: its folder, ports, cookie and user are the
cluster's, and it listens on the loopback interface only. Erlang finds nodes through a name server,
epmd, which a node would otherwise start as a daemon that outlives it; here it is a child as well.

Memory is bounded where RabbitMQ takes much by default: the write-ahead log of quorum queues is kept
in memory up to `raft.wal_max_size_bytes` (512 MB), and publishers are blocked at the watermark.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.embedded.child import Child
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import write_private

USER: Final = "tidegate"
_PACKAGE: Final = "apt-get install rabbitmq-server"
# The package's scripts. What it puts on the PATH serves the machine's own node: it changes the user.
_SCRIPTS: Final = Path("/usr/lib/rabbitmq/bin")
_CONFIGURATION: Final = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
vm_memory_high_watermark.absolute = 256MB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 16777216
log.console = true
log.console.level = warning
log.file = false
"""
_ERLANG: Final = "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
_HELLO: Final = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME: Final = b"\x01"  # the server's own hello; what refuses us begins with `AMQP`
_READY_TIMEOUT_S: Final = 60  # a starting Erlang reads hundreds of files


@dataclass(frozen=True)
class RabbitServer:
    """One node: where it keeps its data, where it listens, where nodes are named."""

    folder: Path
    port: int
    distribution_port: int
    names_port: int
    password: str

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}//"

    @property
    def data(self) -> Path:
        """What it remembers: its users, queues and messages."""
        return self.folder / "data"

    def names_child(self, environ: Mapping[str, str]) -> Child:
        """Describe the name server, which must be there before the node."""
        port = str(self.names_port)
        return Child(
            name="epmd",
            role="epmd",
            program=(_program("epmd"), "-port", port, "-address", "127.0.0.1"),
            environ=environ,
            folder=self.folder,
            ready=lambda: _connects(self.names_port),
        )

    def child(self, environ: Mapping[str, str]) -> Child:
        """Write the node's configuration, and describe its process."""
        text = _CONFIGURATION.format(port=self.port, user=USER, password=self.password)
        write_private(self.folder / "rabbitmq.conf", text.encode())
        write_private(self.folder / "enabled_plugins", b"[].\n")
        return Child(
            name="rabbitmq",
            role="rabbitmq",
            program=(_program("rabbitmq-server"), "-noinput"),
            environ={**environ, **self.environ()},
            folder=self.folder,
            ready=self.answers,
            ready_timeout_s=_READY_TIMEOUT_S,
            stop_timeout_s=15,
        )

    def environ(self) -> dict[str, str]:
        """Return what the package's scripts must be told, to reach this node and no other."""
        return {
            "HOME": str(self.folder),  # for the cookie
            "ERL_EPMD_PORT": str(self.names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",  # become Erlang, and stay no shell around it
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # the machine's own node has one
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_NODENAME": f"tidegate-{self.port}@localhost",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }

    def answers(self) -> bool:
        """Tell whether it takes connections: it does so last of all when it starts."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as talk:
                talk.sendall(_HELLO)
                return talk.recv(1) == _METHOD_FRAME
        except OSError:
            return False


def lack() -> str:
    """Say why no node can be started on this machine; empty where it can."""
    try:
        _program("epmd"), _program("rabbitmq-server")
    except EmbeddedError as missing:
        return str(missing)
    return ""


def control(name: str = "rabbitmqctl") -> str:
    """Return the path of one of the package's commands. Raises EmbeddedError."""
    return _program(name)


def _program(name: str) -> str:
    script = _SCRIPTS / name
    found = str(script) if script.exists() else shutil.which(name)
    if found is None:
        msg = f"no {name} on this machine; Debian: {_PACKAGE}"
        raise EmbeddedError(msg)
    return found


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
