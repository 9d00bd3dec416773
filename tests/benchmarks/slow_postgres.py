"""A PostgreSQL that is slow: a proxy that hands on every byte late, in its order.

    python -m tests.benchmarks.slow_postgres LISTEN_PORT SERVER_PORT DELAY_MS

Each direction is delayed by half of `DELAY_MS`, so a round trip takes that much longer, whatever its
size: a server in another town. SIGUSR1 pauses it (nothing passes, nothing is lost), SIGUSR2 lets it
go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys


class SlowProxy:
    """Forwards TCP connections to a local port, late."""

    def __init__(self, server_port: int, delay_s: float) -> None:
        self._server_port = server_port
        self._delay_s = delay_s
        self._open = asyncio.Event()
        self._open.set()

    async def serve(self, port: int) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._open.clear)
        loop.add_signal_handler(signal.SIGUSR2, self._open.set)
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            await asyncio.gather(self._forward(reader, back), self._forward(there, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await late.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._open.wait()
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        delivering = asyncio.create_task(deliver())
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                late.put_nowait((loop.time() + self._delay_s / 2, data))
        late.put_nowait((loop.time() + self._delay_s / 2, b""))
        with contextlib.suppress(OSError):
            await delivering


if __name__ == "__main__":
    listen, server, delay_ms = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(SlowProxy(int(server), float(delay_ms) / 1_000).serve(int(listen)))
