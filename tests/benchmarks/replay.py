"""Recording what clients say to PostgreSQL, and saying it again to a copy of the database.

The bytes that psycopg sends are taken down by a proxy; said again from a socket they cost next to
nothing, so that what is measured then is PostgreSQL and not the clients. A client's Flush is left
out: whoever only repeats does not wait for early replies, but for those of the whole series.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from workers.store.pool import Connection

_CHUNK = 262_144
_READY = b"Z\x00\x00\x00\x05"  # ReadyForQuery; one byte follows: I, T, or E after an error
_FAILED = b"E"


class ReplayError(Exception):
    """The copy did not take what the original took."""


class Said(NamedTuple):
    """A series of messages up to its Sync, and which of the recorded connections sent it."""

    connection: int  # in the order in which they were opened
    messages: bytes


class Recorder:
    """A proxy before the server of `dsn` that takes down what its clients say; use its own `dsn`."""

    def __init__(self, dsn: str) -> None:
        found = re.fullmatch(r"(.*@)([^:/@]+):(\d+)(/.*)", dsn)
        if found is None:
            raise ValueError("a DSN with host and port is expected")
        self._server = (found[2], int(found[3]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = f"{found[1]}127.0.0.1:{self._listener.getsockname()[1]}{found[4]}"
        self._said: list[Said] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join()

    def take(self) -> list[Said]:
        """Return what was said, and answered, since this was last called."""
        said, self._said = self._said, []
        return said

    def _accept(self) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.append(one)
                ready = threading.Event()
                for run, arguments in (
                    (self._listen, (number, client, server, ready)),
                    (_forward, (server, client, ready)),
                ):
                    threading.Thread(target=run, args=arguments, daemon=True).start()
                number += 1

    def _listen(
        self, number: int, client: socket.socket, server: socket.socket, ready: threading.Event
    ) -> None:
        """Forward what a client says, and take it down once it is logged in."""
        heard, series = bytearray(), bytearray()
        with contextlib.suppress(OSError):
            while chunk := client.recv(_CHUNK):
                if ready.is_set():
                    heard += chunk
                    for kind, message in take_messages(heard):
                        if kind != b"H":
                            series += message
                        if kind in b"SQ":
                            # Before the server hears it: the next may come from another client.
                            self._said.append(Said(number, bytes(series)))
                            series.clear()
                server.sendall(chunk)


def take_messages(heard: bytearray) -> list[tuple[bytes, bytes]]:
    """Take the complete messages off the front: a type byte, a length that counts itself, a body."""
    found, at = [], 0
    while len(heard) - at >= 5:
        end = at + 1 + struct.unpack_from("!I", heard, at + 1)[0]
        if end > len(heard):
            break
        found.append((bytes(heard[at : at + 1]), bytes(heard[at:end])))
        at = end
    del heard[:at]
    return found


def _forward(server: socket.socket, client: socket.socket, ready: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while chunk := server.recv(_CHUNK):
            if not ready.is_set() and _READY in chunk:
                ready.set()
            client.sendall(chunk)


class Replayer:
    """Says recorded series on connections of its own."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        """One connection for each recorded one, in their order; opened with the same options."""
        self._sockets = [socket.socket(fileno=os.dup(one.fileno())) for one in connections]
        for one in self._sockets:
            one.setblocking(True)

    def say(self, said: Said) -> None:
        """Send one series and wait until all of it was answered. Raises ReplayError."""
        line = self._sockets[said.connection]
        line.sendall(said.messages)
        tail = b""
        while tail[-6:-1] != _READY:
            chunk = line.recv(_CHUNK)
            if not chunk:
                raise ReplayError("the server closed the connection")
            tail = tail[-5:] + chunk
        if tail[-1:] == _FAILED:
            raise ReplayError(f"a statement failed: {tail[-500:]!r}")

    def close(self) -> None:
        """Let go of the sockets."""
        for one in self._sockets:
            one.close()
