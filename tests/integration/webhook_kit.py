"""A receiver of webhooks, and relays that deliver to it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec import Struct

from tests.factories import MASTER, owner
from workers.contract.couponcode import CouponCodes
from workers.contract.posting import Poster
from workers.contract.webhook import WebhookSecrets
from workers.domain.delivery import EVENTS
from workers.runtime.relay import RelayStore
from workers.service.letters import Writer
from workers.service.relay import Bounds, Relay
from workers.store import gateways, webhooks
from workers.store.pool import WORKER, connect
from workers.store.pool import Bounds as ConnectionBounds

SECRETS = WebhookSecrets(MASTER)
CODES = CouponCodes(MASTER)
QUICK = Bounds(timeout_ms=3_000, lease_ms=30_000, interval_ms=20)


class Hit(Struct, frozen=True):
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        """The id that is the same each time."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Reply(Struct, frozen=True):
    """What the receiver answers."""

    status: int = 204
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Receiver:
    """A small HTTP server that keeps what it is sent; `answer` may block, as a slow one does."""

    def __init__(
        self,
        answer: Callable[[Hit], Reply | int] = lambda _: 204,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hits: list[Hit] = []
        self.answer = answer
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                hit = Hit(self.path, headers, self.rfile.read(length))
                outer.hits.append(hit)
                given = outer.answer(hit)
                reply = Reply(given) if isinstance(given, int) else given
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def ids(self) -> list[str]:
        """The ids of what was sent, in the order of their coming."""
        return [hit.webhook_id for hit in self.hits]

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def receiving(
    answer: Callable[[Hit], Reply | int] = lambda _: 204, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """Receive until the end."""
    receiver = Receiver(answer, tls)
    try:
        yield receiver
    finally:
        receiver.close()


def register(dsn: str, url: str, gateway: str = "chat", events: Any = EVENTS) -> webhooks.NewSecret:
    """Register an endpoint of a gateway, which is made if it is not there."""
    with owner(dsn) as connection:
        if gateway not in [known.gateway_id for known in gateways.list_gateways(connection)]:
            gateways.create_gateway(connection, gateway, ["intents:write"], actor="test")
        return webhooks.register(connection, SECRETS, gateway, url, events, actor="test")


def open_store(dsn: str) -> RelayStore:
    """A relay's store, in the worker's role."""
    return RelayStore(lambda: connect(dsn, WORKER, ConnectionBounds(), name="relay"))


@contextmanager
def relaying(
    dsn: str,
    bounds: Bounds = QUICK,
    poster: Poster | None = None,
    once_stopping: Callable[[], object] = lambda: None,
) -> Iterator[list[Any]]:
    """Let a relay deliver, in a thread of its own; yields the errors of its store.

    `once_stopping` is called at the end, when the relay begins nothing more.
    """
    errors: list[Any] = []
    started = threading.Event()
    control: dict[str, Any] = {}

    async def deliver() -> None:
        stop = asyncio.Event()
        control.update(loop=asyncio.get_running_loop(), stop=stop)
        used = poster or Poster(
            allow_private=True,
            timeout_s=bounds.timeout_ms / 1000,
            lines_max=bounds.endpoint_posts_max,
        )
        store = open_store(dsn)
        relay = Relay(store, used, Writer(SECRETS, CODES), bounds, failed=errors.append)
        control["relay"] = relay
        started.set()
        await relay.run(stop)
        used.close()
        store.connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(deliver()), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield errors
    finally:
        control["loop"].call_soon_threadsafe(control["stop"].set)
        while thread.is_alive() and not control["relay"]._stopping:
            thread.join(0.01)
        once_stopping()
        thread.join(15)
        assert not thread.is_alive()
