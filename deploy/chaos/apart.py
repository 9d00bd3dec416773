"""A network namespace for some of our processes: to them the servers are another machine's.

Every fault of this network is the kernel's own, not a proxy's. Needs root and `ip`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from deploy.chaos.proxy import Proxy

_TIMEOUT_S: Final = 20
_NARROW: Final = "64kbit"
_NET: Final = "10.213"


class Apart:
    """The namespace, its cable, and what listens at this end of it; a context manager.

    `servers` are the ports that are to be reached from there, each with where it leads to.
    """

    def __init__(self, servers: Mapping[str, Callable[[], tuple[str, int]]]) -> None:
        """Lay the cable. Raises CalledProcessError or OSError."""
        self._name = f"tidegate-{os.getpid()}"
        self._cable = f"tg{os.getpid()}"[:14]
        self._host = f"{_NET}.{os.getpid() % 250}.1"
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undone:
            self._ip("netns", "add", self._name)
            undone.callback(self._ip, "netns", "del", self._name)
            there = f"{self._cable}n"
            self._ip("link", "add", self._cable, "type", "veth", "peer", "name", there)
            undone.callback(self._ip, "link", "del", self._cable)
            self._ip("link", "set", there, "netns", self._name)
            self._ip("addr", "add", f"{self._host}/30", "dev", self._cable)
            self._ip("link", "set", self._cable, "up")
            self._inside("addr", "add", f"{self._host[:-1]}2/30", "dev", there)
            self._inside("link", "set", there, "up")
            self._inside("link", "set", "lo", "up")
            self.ports = {
                name: undone.enter_context(Proxy(where, self._host)).port
                for name, where in servers.items()
            }
            self._stack = undone.pop_all()

    @property
    def host(self) -> str:
        """This end's address."""
        return self._host

    def wrapped(self, program: Sequence[str]) -> tuple[str, ...]:
        """Return the command that becomes `program` in the namespace."""
        return (shutil.which("ip") or "ip", "netns", "exec", self._name, *program)

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Pull the cable: packets vanish both ways, and nobody is told."""
        self._ip("link", "set", self._cable, "down")
        try:
            yield
        finally:
            self._ip("link", "set", self._cable, "up")

    @contextlib.contextmanager
    def mute(self) -> Iterator[None]:
        """Let what is sent there vanish; what is sent from there still arrives."""
        self._ip("route", "add", "blackhole", f"{self._host[:-1]}2/32")
        try:
            yield
        finally:
            self._ip("route", "del", "blackhole", f"{self._host[:-1]}2/32")

    @contextlib.contextmanager
    def narrow(self) -> Iterator[None]:
        """Let hardly anything through to there."""
        queue = ["qdisc", "add", "dev", self._cable, "root", "tbf", "rate", _NARROW]
        _run(["tc", *queue, "burst", "4kb", "latency", "400ms"])
        try:
            yield
        finally:
            _run(["tc", "qdisc", "del", "dev", self._cable, "root"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it all away again."""
        self._stack.close()

    def _ip(self, *arguments: str) -> None:
        _run(["ip", *arguments])

    def _inside(self, *arguments: str) -> None:
        _run(["ip", "-n", self._name, *arguments])


def lack() -> str:
    """Say why there can be no such namespace here; empty where there can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "no `ip` and `tc` (package iproute2)"
    try:
        with Apart({}) as apart, apart.unplugged():
            pass
        with Apart({}) as apart, apart.mute(), apart.narrow():
            pass
    except (OSError, subprocess.SubprocessError):
        return "a network namespace needs root"
    return ""


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
