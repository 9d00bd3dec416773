"""Posting a webhook: resolve, check every address, connect to a checked one, post, read a little.

The standard library's client gives no bound for a whole exchange (a receiver that sends a byte now
and then holds it for hours) and resolves by itself, after any check of ours; the clients that do
better bring four packages. h11 speaks the protocol strictly and is here with uvicorn; asyncio brings
the sockets, TLS and one deadline around everything.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import h11
from msgspec import Struct

from workers.domain.delivery import ERROR_CHARS_MAX, Answer, retry_after_s
from workers.domain.destination import Destination, Refused, check_address, destination_of

USER_AGENT: Final = "Tidegate-Webhooks/1"
BODY_BYTES_MAX: Final = 4_096  # read of an answer, so that a connection may be used again
HEAD_BYTES_MAX: Final = 16_384
TIMEOUT_S: Final = 10.0  # for everything, from the name to the last byte read
CONNECT_TIMEOUT_S: Final = 4.0  # for one address, while there is another
IDLE_S: Final = 15.0  # a connection unused for longer is not used again
_RESOLVERS: Final = 64  # names looked up at once; a name server that hangs takes one for each

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Line(Struct):
    """An open connection to a checked address, between two posts."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection
    idle_since: float = 0.0

    def close(self) -> None:
        """Close without waiting for the other side."""
        with suppress(Exception):
            self.writer.transport.abort()


class Poster:
    """Posts to URLs that strangers gave; for one event loop.

    Keeps up to `lines_max` connections open for each URL. `allow_private` as in
    `domain.destination`; `tls` verifies receivers.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        timeout_s: float = TIMEOUT_S,
        lines_max: int = 4,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._lines_max = lines_max
        self._tls = tls or ssl.create_default_context()
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")
        self._resolve = resolve or self._ask_the_system
        self._lines: dict[str, list[Line]] = {}

    async def check(self, url: str) -> None:
        """Raise Refused for a URL that may not be called, as it resolves now."""
        destination = destination_of(url, allow_private=self._allow_private)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._addresses(destination)
        except TimeoutError:
            raise Refused(f"{destination.host} does not resolve in time") from None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post a body; every way to fail is an answer. Redirects are answers like others."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._post(url, headers, body)
        except TimeoutError:
            answer = Answer(error=f"no answer within {self._timeout_s:g} s")
        except Refused as refused:
            answer = Answer(error=str(refused))
        except ssl.SSLError as error:
            answer = Answer(error=f"TLS: {error.reason or error}")
        except OSError as error:
            answer = Answer(error=f"connection: {error.strerror or error}")
        except h11.ProtocolError as error:
            answer = Answer(error=f"not HTTP: {error}")
        return Answer(
            status=answer.status,
            error=answer.error[:ERROR_CHARS_MAX],
            retry_after_s=answer.retry_after_s,
            body=answer.body,
            took_ms=(time.monotonic() - began) * 1000,
        )

    def close(self) -> None:
        """Close all connections."""
        for lines in self._lines.values():
            for line in lines:
                line.close()
        self._lines.clear()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        destination = destination_of(url, allow_private=self._allow_private)
        line = self._idle_line(url)
        if line is not None:
            try:
                return await self._exchange(url, line, destination, headers, body)
            except (OSError, h11.ProtocolError):
                pass  # the receiver closed it meanwhile: once more, on a fresh one
        line = await self._connect(destination)
        return await self._exchange(url, line, destination, headers, body)

    async def _exchange(
        self,
        url: str,
        line: Line,
        destination: Destination,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        """Send the request, read the answer's head and the beginning of its body."""
        protocol, kept = line.protocol, False
        try:
            request = h11.Request(
                method="POST",
                target=destination.target,
                headers=[
                    ("host", destination.authority),
                    ("user-agent", USER_AGENT),
                    ("content-length", str(len(body))),
                    *headers.items(),
                ],
            )
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                line.writer.write(protocol.send(event) or b"")
            await line.writer.drain()
            head, beginning, whole = await _read(line)
            if whole and protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
                protocol.start_next_cycle()
                kept = self._keep(url, line)
            return Answer(
                status=head.status_code,
                retry_after_s=retry_after_s(_header(head, b"retry-after"), datetime.now(UTC)),
                body=beginning,
            )
        finally:
            if not kept:
                line.close()

    async def _connect(self, destination: Destination) -> Line:
        """Connect to the first address that answers; all of them were checked."""
        addresses = await self._addresses(destination)
        for place, address in enumerate(addresses, 1):
            try:
                async with asyncio.timeout(
                    CONNECT_TIMEOUT_S if place < len(addresses) else self._timeout_s
                ):
                    reader, writer = await asyncio.open_connection(
                        address,
                        destination.port,
                        ssl=self._tls if destination.tls else None,
                        server_hostname=destination.host.rstrip(".") if destination.tls else None,
                    )
            except (TimeoutError, OSError) as error:
                if place == len(addresses) or isinstance(error, ssl.SSLError):
                    raise
            else:
                protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
                return Line(reader, writer, protocol)
        raise Refused(f"{destination.host} has no address")

    async def _addresses(self, destination: Destination) -> list[str]:
        """Resolve; one address that may not be called refuses them all."""
        try:
            found = await self._resolve(destination.host, destination.port)
        except socket.gaierror as error:
            raise Refused(f"{destination.host} does not resolve: {error.strerror}") from None
        if not found:
            raise Refused(f"{destination.host} has no address")
        checked = [check_address(text, allow_private=self._allow_private) for text in found]
        return list(dict.fromkeys(map(str, checked)))

    async def _ask_the_system(self, host: str, port: int) -> list[str]:
        # Not the loop's own threads: they would be taken by names that hang.
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]

    def _idle_line(self, url: str) -> Line | None:
        lines = self._lines.get(url, [])
        while lines:
            line = lines.pop()
            fresh = time.monotonic() - line.idle_since < IDLE_S
            if fresh and not line.reader.at_eof() and not line.writer.is_closing():
                return line
            line.close()
        return None

    def _keep(self, url: str, line: Line) -> bool:
        lines = self._lines.setdefault(url, [])
        if len(lines) >= self._lines_max:
            return False
        line.idle_since = time.monotonic()
        lines.append(line)
        return True


async def _read(line: Line) -> tuple[h11.Response, bytes, bool]:
    """Read an answer's head and up to `BODY_BYTES_MAX` of its body; say whether that was all."""
    head: h11.Response | None = None
    beginning = b""
    while True:
        event = line.protocol.next_event()
        if event is h11.NEED_DATA:
            data = await line.reader.read(BODY_BYTES_MAX)
            if not data and head is None:
                raise ConnectionError("closed without an answer")
            line.protocol.receive_data(data)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data) and head is not None:
            beginning += bytes(event.data)
            if len(beginning) > BODY_BYTES_MAX:
                return head, beginning[:BODY_BYTES_MAX], False
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, beginning, True


def _header(head: h11.Response, name: bytes) -> str | None:
    for key, value in head.headers:
        if key == name:
            return value.decode("latin-1")
    return None
