"""A proxy before PostgreSQL that counts what a client asks, and loses replies when told to.

It reads the client's side of the protocol (each message: a type byte and a length), so it knows a
statement from a round trip whatever TCP makes of their bytes.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections import Counter
from types import TracebackType
from typing import Self

_SPECIAL = {80877102, 80877103, 80877104}  # cancel, SSL and GSS requests precede the startup
_CHUNK = 65_536


class PostgresProxy:
    """Forwards connections to the server of `dsn`; a context manager. Use its own `dsn`.

    `lose_reply_to` is bytes of a statement: the next message that holds them reaches the server, and
    its reply is swallowed and the connection cut. With `hasty` the client's side is cut at once, and
    the server works on. `refusing` cuts every new connection.
    """

    def __init__(self, dsn: str) -> None:
        found = re.fullmatch(r"(.*@)([^:/@]+):(\d+)(/.*)", dsn)
        assert found is not None, dsn
        self._server = (found[2], int(found[3]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = f"{found[1]}127.0.0.1:{self._listener.getsockname()[1]}{found[4]}"
        self.messages: Counter[str] = Counter()  # of clients, by type, since they were cleared
        self.lose_reply_to: bytes | None = None
        self.hasty = False
        self.refusing = False
        self.lost = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def statements(self) -> int:
        """How many statements were executed."""
        return self.messages["E"] + self.messages["Q"]

    @property
    def syncs(self) -> int:
        """How often a client ended a series of statements, and waited for all their replies."""
        return self.messages["S"] + self.messages["Q"]

    @property
    def flushes(self) -> int:
        """How often a client asked for early replies within a series; none if they had come."""
        return self.messages["H"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        for end in self._open:
            _close(end)
        self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refusing:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._open += [client, server]
                link = _Link(self, client, server)
                threading.Thread(target=link.forward_requests, daemon=True).start()
                threading.Thread(target=link.forward_replies, daemon=True).start()


class _Link:
    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._swallowing = False
        self._unread = b""
        self._started = False

    def forward_requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(_CHUNK):
                if self._count(data):
                    self._proxy.lost += 1
                    self._swallowing = True
                    if self._proxy.hasty:
                        self._server.sendall(data)
                        _close(self._client)
                        return  # the server's side stays open: it works on
                self._server.sendall(data)
        _close(self._server)

    def forward_replies(self) -> None:
        replies = b""
        with contextlib.suppress(OSError):
            while data := self._server.recv(_CHUNK):
                if not self._swallowing:
                    self._client.sendall(data)
                    continue
                replies += data
                if b"Z\x00\x00\x00\x05" in replies:  # ready for the next query: it is done
                    break
        _close(self._client)
        _close(self._server)

    def _count(self, data: bytes) -> bool:
        """Count the messages that are complete; tell whether one is to lose its reply."""
        self._unread += data
        losing = False
        while message := self._next():
            if message[:1].isalpha() and self._started:
                self._proxy.messages[message[:1].decode()] += 1
            marker = self._proxy.lose_reply_to
            if marker is not None and marker in message:
                self._proxy.lose_reply_to = None
                losing = True
        return losing

    def _next(self) -> bytes:
        head = 1 if self._started else 0
        if len(self._unread) < head + 4:
            return b""
        (length,) = struct.unpack_from("!I", self._unread, head)
        if len(self._unread) < head + length:
            return b""
        message, self._unread = self._unread[: head + length], self._unread[head + length :]
        if not self._started:
            (code,) = struct.unpack_from("!I", message, 4)
            self._started = code not in _SPECIAL
            return message if code not in _SPECIAL else b"\0" + message
        return message


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
