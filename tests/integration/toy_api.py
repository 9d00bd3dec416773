"""A toy of the HTTP API, for the load generator's own tests only.

It keeps intents in a dict, decides them after a moment, and can be told to misbehave on a post:
that is what the real API would hardly do when a test asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

Json = dict[str, Any]


class Toy:
    """The toy's state and its script."""

    def __init__(self) -> None:
        self.intents: dict[str, Json] = {}  # by key
        self.posts: list[tuple[str, bool]] = []  # (key, answered), single posts in arrival order
        self.batches = 0
        self.decide_after_s = 0.05
        self.stall: tuple[float, float] | None = None  # seconds after the first post: from, until
        self.began: float | None = None
        #: Asked for every single post, with its key and how often the key came: "drop" closes the
        #: connection before the intent is taken, "take_and_drop" after; a (status, body, headers)
        #: is answered and takes nothing; None behaves.
        self.script: Callable[[str, int], Any] = lambda key, times: None
        self.outcome_of: Callable[[str], tuple[str, str | None]] = lambda key: ("committed", None)
        self.port = 0
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def times(self, key: str) -> int:
        """How often a key was posted singly."""
        return sum(1 for known, _ in self.posts if known == key)

    def take(self, key: str, body: Json, path: str) -> tuple[int, Json]:
        """Take an intent, or find the one its key names."""
        known = self.intents.get(key)
        if known is not None:
            resource = self.resource(known)
            return (202 if resource["status"] == "accepted" else 200), resource
        intent = {"id": str(uuid4()), "at": datetime.now(UTC), "key": key, "path": path} | body
        self.intents[key] = intent
        return 202, {
            "intent_id": intent["id"],
            "status": "accepted",
            "estimated_wait_ms": 5,
            "poll_after_ms": 100,
        }

    def resource(self, intent: Json) -> Json:
        accepted_at: datetime = intent["at"]
        decided_at = accepted_at + timedelta(seconds=self.decide_after_s)
        told: Json = {"intent_id": intent["id"], "accepted_at": accepted_at.isoformat()}
        if datetime.now(UTC) < decided_at:
            return told | {"status": "accepted"}
        status, reason = self.outcome_of(intent["key"])
        told |= {"status": status, "reason": reason, "decided_at": decided_at.isoformat()}
        if intent["path"] == "/v1/coupons":
            told["coupon"] = {"code": f"CODE{intent['user_id']}"}
        return told


class _Session(asyncio.Protocol):
    def __init__(self, toy: Toy) -> None:
        self._toy = toy
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._toy.connections += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:])}
            size = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + size:
                return
            body = self._buffer[end + 4 : end + 4 + size]
            self._buffer = self._buffer[end + 4 + size :]
            method, path, _ = head[0].split(" ")
            self._serve_or_stall(method, path, headers, body)

    def _serve_or_stall(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        toy, loop = self._toy, asyncio.get_running_loop()
        now = loop.time()
        if toy.began is None:
            toy.began = now
        pause = 0.0
        if toy.stall is not None and toy.stall[0] <= now - toy.began < toy.stall[1]:
            pause = toy.stall[1] - (now - toy.began)
        if pause:
            loop.call_later(pause, self._serve, method, path, headers, body)
        else:
            self._serve(method, path, headers, body)

    def _serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        toy, url = self._toy, urlsplit(target)
        if method == "GET":
            self._answer(*self._look_up(url.path, parse_qs(url.query)))
        elif url.path.endswith("/batch"):
            toy.batches += 1
            results = []
            for item in json.loads(body):
                status, told = toy.take(
                    item["idempotency_key"], item, url.path.removesuffix("/batch")
                )
                results.append({"status_code": status} | told)
            self._answer(200, results)
        else:
            self._post(url.path, headers["idempotency-key"], json.loads(body))

    def _post(self, path: str, key: str, body: Json) -> None:
        toy = self._toy
        deed = toy.script(key, toy.times(key) + 1)
        toy.posts.append((key, not isinstance(deed, str)))
        if deed == "take_and_drop":
            toy.take(key, body, path)
        if isinstance(deed, str):
            self._transport.abort()
        elif deed is not None:
            self._answer(*deed)
        else:
            self._answer(*toy.take(key, body, path))

    def _look_up(self, path: str, query: dict[str, list[str]]) -> tuple[int, Json]:
        if path == "/v1/intents":
            known = self._toy.intents.get(query["idempotency_key"][0])
        else:
            wanted = path.rsplit("/", 1)[1]
            known = next((i for i in self._toy.intents.values() if i["id"] == wanted), None)
        if known is None:
            return 404, {"code": "not_found", "status": 404}
        return 200, self._toy.resource(known)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        lines = [f"{k}: {v}" for k, v in (headers or {}).items()]
        head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *lines]
        self._transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + content)


@contextlib.contextmanager
def serving(toy: Toy) -> Iterator[Toy]:
    """Serve the toy from a thread of its own, on a free port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: _Session(toy), "127.0.0.1", 0))
    toy.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="toy-api")
    thread.start()
    try:
        yield toy
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
