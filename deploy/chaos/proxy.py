"""A TCP proxy of the harness, between our processes and one server.

All links of a proxy share its `weather`, which may change at any time. The proxy understands just
enough of PostgreSQL's protocol to know a commit when it sees one; everything else is bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Final, Literal, Self

from deploy.chaos.serving import listen, served

_CHUNK: Final = 65_536
_SLICED_BYTES: Final = 128  # of a chunk come one by one, the rest after them
_HOLE_LOOK_S: Final = 0.02
_QUEUED_MAX: Final = 256  # chunks under way in one direction: beyond it the sender has to wait
_STOP_S: Final = 5.0

Way = Literal["there", "back"]


class Weather:
    """What happens to every byte. Plain attributes, set from any thread."""

    def __init__(self) -> None:
        self.delay_s = 0.0  # each chunk comes so late, plus up to half as much again
        self.bytes_per_s = 0.0  # of each connection and direction; 0 means: no limit
        self.sliced = False
        self.holes: set[Way] = set()  # in these directions bytes vanish from sight, and stay unread
        self.lose_reply_to = (
            b""  # the next message that holds this is done, and its reply swallowed
        )


class Proxy:
    """Listens on a free port of `host` until it is closed; a context manager.

    `upstream` says where the server is; it is asked for each connection.
    """

    def __init__(self, upstream: Callable[[], tuple[str, int]], host: str = "127.0.0.1") -> None:
        self.weather = Weather()
        self.lost_replies = 0
        self._upstream = upstream
        self.random = Random(0)
        self._links: set[_Link] = set()
        self._listener = listen(host)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self, share: float) -> int:
        """Cut so large a share of the links, each after half of its next chunk; return how many."""
        links = list(self._links)
        chosen = [link for link in links if self.random.random() < share] or links[:1]
        for link in chosen:
            link.torn = True
        return len(chosen)

    def close(self) -> None:
        """Close every connection and end the thread. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(_STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with served(self._listener, self._link):
            await self._ending.wait()
            for link in list(self._links):
                link.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(*self._upstream())
        except OSError:
            return
        link = _Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.close()


_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection and the server's that belongs to it."""

    def __init__(self, proxy: Proxy, client: _End, server: _End) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._swallowing = False
        self.torn = False

    async def run(self) -> None:
        pumps = [
            asyncio.ensure_future(self._pump("there", self._client[0], self._server[1])),
            asyncio.ensure_future(self._pump("back", self._server[0], self._client[1])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def close(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _pump(self, way: Way, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """Read on while earlier chunks are still under way, as a long wire would."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_MAX)
        sending = asyncio.ensure_future(self._send(way, queue, to))
        try:
            while data := await self._read(way, source, sending):
                weather = self._proxy.weather
                delay_s = weather.delay_s * (1 + self._proxy.random.random() / 2)
                await queue.put((asyncio.get_running_loop().time() + delay_s, data))
        finally:
            sending.cancel()

    async def _read(
        self, way: Way, source: asyncio.StreamReader, sending: asyncio.Future[None]
    ) -> bytes:
        while way in self._proxy.weather.holes:
            await asyncio.sleep(_HOLE_LOOK_S)
        if sending.done():
            return b""
        try:
            return await source.read(_CHUNK)
        except OSError:
            return b""

    async def _send(
        self, way: Way, queue: asyncio.Queue[tuple[float, bytes]], to: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                while way in self._proxy.weather.holes:  # what was under way vanishes as well
                    await asyncio.sleep(_HOLE_LOOK_S)
                if not await self._deliver(way, data, to):
                    self.close()
                    return

    async def _deliver(self, way: Way, data: bytes, to: asyncio.StreamWriter) -> bool:
        """Write a chunk as the weather has it; False when the link is to be cut."""
        weather = self._proxy.weather
        if way == "back" and self._swallowing:
            self._proxy.lost_replies += 1
            return False
        if self.torn:
            to.write(data[: len(data) // 2])
            await to.drain()
            return False
        if way == "there" and weather.lose_reply_to and weather.lose_reply_to in data:
            weather.lose_reply_to = b""
            self._swallowing = True
        if weather.sliced:
            head, data = data[:_SLICED_BYTES], data[_SLICED_BYTES:]
            for at in range(len(head)):
                to.write(head[at : at + 1])
                await asyncio.sleep(0)
        to.write(data)
        await to.drain()
        if weather.bytes_per_s:
            await asyncio.sleep(len(data) / weather.bytes_per_s)
        return True
