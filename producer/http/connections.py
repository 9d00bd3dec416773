"""Connections of uvicorn, with bounds of our own on those who send slowly or without end.

uvicorn closes a connection that idles after an answer, and waits for ever for one that never ends
its header: a few thousand such callers would take every file the process may open. Here what is
being sent must be complete within a while, and within a size.
"""

from __future__ import annotations

import asyncio
import functools
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RECEIVE_TIMEOUT_S = 10.0  # for the header and the body together
HEADER_BYTES_MAX = 64 * 1024
_FILES_RESERVED = 200  # for databases, logs and threads
_SWEEP_INTERVAL_S = 1.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


@functools.cache
def connections_max() -> int:
    """Return how many connections the process may hold open, by its limit of files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(100, soft - _FILES_RESERVED)


class Connection(HttpToolsProtocol):
    """One connection of a caller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # as uvicorn calls it
        super().__init__(*args, **kwargs)
        self.receiving_since: float | None = None
        self.header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > connections_max():
            transport.abort()
        self.receiving_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse what came; give up on a header that does not end."""
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()
        super().data_received(data)
        if self.header_bytes >= 0:
            self.header_bytes += len(data)
            if self.header_bytes > HEADER_BYTES_MAX and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.header_bytes = 0

    def on_headers_complete(self) -> None:
        self.header_bytes = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.receiving_since = None
        super().on_message_complete()


async def sweep(connections: set[Any]) -> None:
    """Close those that take too long to say what they want; runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_INTERVAL_S)
        overdue = loop.time() - RECEIVE_TIMEOUT_S
        for connection in list(connections):
            since = getattr(connection, "receiving_since", None)
            if since is not None and since < overdue:
                connection.transport.abort()
