"""Asking the API: one call at a time on each of a few connections, every call with its end.

Unlike the load generator's connections these tell apart what surely never went out from what may
have arrived: a history needs that.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from deploy.load.wire import Reply, Target, WireError, read

_CHUNK: Final = 65_536
_CONNECT_TIMEOUT_S: Final = 2.0

_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NotSentError(Exception):
    """No connection was to be had: the call never went out."""


class Asker:
    """Keeps connections between calls. For one event loop."""

    def __init__(self, to: Target) -> None:
        self._to = to
        self._idle: list[_Line] = []

    async def ask(self, payload: bytes, timeout_s: float) -> Reply | None:
        """Send one request and return its answer; None where none came, or none that can be read.

        Raises NotSentError.
        """
        line = await self._line()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(line, payload)
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    async def _line(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if not line[0].at_eof() and not line[1].is_closing():
                return line
            line[1].transport.abort()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(self._to.host, self._to.port)
        except OSError as refused:  # a timeout is one, too
            raise NotSentError from refused

    async def _exchange(self, line: _Line, payload: bytes) -> Reply | None:
        reader, writer = line
        reply = None
        try:
            with contextlib.suppress(OSError, WireError, ValueError):
                writer.write(payload)
                data = b""
                while reply is None:
                    chunk = await reader.read(_CHUNK)
                    if not chunk:
                        break
                    data += chunk
                    reply = read(data)
        finally:
            if reply is None or reply.close:
                writer.transport.abort()
            else:
                self._idle.append(line)
        return reply
