"""Receivers of webhooks: a sound one, and bad ones in every way, all endpoints of the same gateway.

What comes is written down before it is answered: one line a post. The sound one can be away for a
while, as in a deployment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Struct

from deploy.chaos.history import now
from deploy.chaos.serving import listen, served
from deploy.embedded.seeding import GATEWAY
from workers.contract.webhook import WebhookSecrets
from workers.store import webhooks
from workers.store.pool import Connection

SOUND: Final = "sound"

_SLOW_S: Final = 2.0
_SILENT_S: Final = 3_600.0
_ENDLESS_PAUSE_S: Final = 0.2
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_STOP_S: Final = 5.0
_TAKEN: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_FAILED: Final = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
_ENDLESS: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

_encode = msgspec.json.Encoder().encode


class Heard(Struct, frozen=True, kw_only=True):
    """One post as it came in. `body` is its digest: the same event reads the same each time."""

    at: float
    receiver: str
    event_id: str
    event: str  # the last word of its type
    intent_id: str
    key: str
    body: str


class Receivers:
    """Listens for all of them on one port; a context manager."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._away = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._listener = listen()
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="receivers", daemon=True)

    def register(self, connection: Connection, master: str) -> None:
        """Make every one of them an endpoint of the gateway. Raises WebhookError."""
        secrets = WebhookSecrets(master)
        for name in (SOUND, *_BAD):
            url = f"http://127.0.0.1:{self.port}/{name}"
            webhooks.register(connection, secrets, GATEWAY, url, actor="chaos")

    @contextlib.contextmanager
    def without_the_sound_one(self) -> Iterator[None]:
        """Let the sound one be cut off: it takes nothing, and no post is answered."""
        self._away = True
        try:
            yield
        finally:
            self._away = False

    def heard_of(self, campaign_id: str) -> list[Heard]:
        """Return what came of one campaign's intents."""
        with self._lock:
            return [one for one in self.heard if one.key.startswith(f"{campaign_id}-")]

    def write(self, file: Path, campaign_id: str) -> None:
        """Leave what came of a campaign's intents in a file."""
        file.write_bytes(b"".join(_encode(one) + b"\n" for one in self.heard_of(campaign_id)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with served(self._listener, self._talk):
            await self._ending.wait()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take posts on one connection until it, or its receiver, ends."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(_HEAD_END)
                body = await reader.readexactly(_length(head))
                name = head.split(b" ", 2)[1].decode().strip("/")
                if name == SOUND and self._away:
                    break
                self._note(name, body)
                if not await _BAD.get(name, _sound)(writer):
                    break

    def _note(self, receiver: str, body: bytes) -> None:
        event: Mapping[str, Any] = msgspec.json.decode(body)
        data = event.get("data") or {}
        with self._lock:
            self.heard.append(
                Heard(
                    at=now(),
                    receiver=receiver,
                    event_id=event["id"],
                    event=event["type"].rpartition(".")[2],
                    intent_id=event.get("subject", ""),
                    key=data.get("idempotency_key", ""),
                    body=hashlib.sha256(body).hexdigest(),
                )
            )


async def _sound(writer: asyncio.StreamWriter) -> bool:
    writer.write(_TAKEN)
    await writer.drain()
    return True


async def _slow(writer: asyncio.StreamWriter) -> bool:
    """Take its time over every post."""
    await asyncio.sleep(_SLOW_S)
    return await _sound(writer)


async def _silent(writer: asyncio.StreamWriter) -> bool:
    """Never answer."""
    await asyncio.sleep(_SILENT_S)
    return False


async def _failing(writer: asyncio.StreamWriter) -> bool:
    """Fail over everything."""
    writer.write(_FAILED)
    await writer.drain()
    return True


async def _dying(writer: asyncio.StreamWriter) -> bool:
    """Take it, and die in the midst of the answer."""
    writer.write(_TAKEN[:9])
    await writer.drain()
    return False


async def _endless(writer: asyncio.StreamWriter) -> bool:
    """Answer, and never come to an end."""
    writer.write(_ENDLESS)
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(_ENDLESS_PAUSE_S)


_BAD: Final[Mapping[str, Callable[[asyncio.StreamWriter], Awaitable[bool]]]] = {
    "slow": _slow,
    "silent": _silent,
    "failing": _failing,
    "dying": _dying,
    "endless": _endless,
}


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(_LENGTH):
            return int(line.removeprefix(_LENGTH))
    return 0
