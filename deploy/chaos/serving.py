"""Serving connections in a thread's own loop, until they are all cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LOOPBACK: Final = "127.0.0.1"


def listen(host: str = _LOOPBACK) -> socket.socket:
    """Open a free port of `host`."""
    return socket.create_server((host, 0))


@contextlib.asynccontextmanager
async def served(listener: socket.socket, talk: Talk) -> AsyncIterator[None]:
    """Serve each connection with `talk`; in the end cancel every task of this loop, and wait for it.

    The tasks are ours: of those that `start_server` makes of a coroutine itself, Python 3.11 takes
    the cancellation for an error. What a task raises asyncio still says: nobody here asks for it.
    """
    talks: set[asyncio.Future[None]] = set()

    def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking = asyncio.ensure_future(_talked(talk, reader, writer))
        talks.add(talking)  # the loop itself keeps no task alive
        talking.add_done_callback(talks.discard)

    server = await asyncio.start_server(come, sock=listener)
    try:
        yield
    finally:
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)


async def _talked(talk: Talk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await talk(reader, writer)
    finally:
        writer.transport.abort()
