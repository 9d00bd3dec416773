"""A connection of a sender: one post at a time, and its answer."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import cast

from deploy.load.wire import Reply, WireError, read


class Line(asyncio.Protocol, ABC):
    """One connection, one post at a time. Whoever sends over it says what an answer means."""

    __slots__ = ("_buffer", "busy", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""
        self.busy = False  # a post is under way

    def write(self, post: bytes) -> None:
        """Send a post; the line must not be busy."""
        self.busy = True
        self.transport.write(post)

    @abstractmethod
    def replied(self, reply: Reply) -> None:
        """Take the answer to the post; the line is free."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        try:
            reply = read(data)
        except (WireError, ValueError):
            self.transport.abort()
            return
        if reply is None:
            self._buffer = data
            return
        self._buffer = b""
        if not self.busy:  # an answer nobody asked for: the server is closing an idle connection
            self.transport.abort()
            return
        self.busy = False
        self.replied(reply)
