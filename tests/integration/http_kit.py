"""The API as its callers meet it: the real server on a real port, in a thread of the test."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import uvloop

from config.listening import listen
from config.settings import Api, Postgres, Secrets, Settings, Valkey
from producer.http.auth import SCOPES
from producer.http.server import BACKLOG, make_server
from tests.factories import GATEWAY, MASTER, open_gate, owner
from workers.runtime.bootstrap import announcer
from workers.service.process_batch import Processor
from workers.store.pool import WORKER, Bounds, connect
from workers.store.session import BatchSession

TEA = {"sku": "tea", "quantity": 1}
ORDER: dict[str, Any] = {"user_id": "u-1", "campaign_id": "spring", "lines": [TEA]}
ISSUANCE: dict[str, Any] = {"user_id": "u-1", "campaign_id": "spring"}


def key_of(gateway_id: str) -> str:
    """The key by which a gateway of these tests calls."""
    return f"tg_{gateway_id}_secret"


def add_gateway(dsn: str, gateway_id: str = GATEWAY, scopes: Sequence[str] = SCOPES) -> str:
    """Add a gateway with one key; return the key."""
    key = key_of(gateway_id)
    with owner(dsn) as connection:
        connection.execute(
            "INSERT INTO gateways (gateway_id, scopes) VALUES (%s, %s)", (gateway_id, list(scopes))
        )
        connection.execute(
            "INSERT INTO gateway_keys (key_id, gateway_id, key_hash) VALUES (%s, %s, %s)",
            (gateway_id, gateway_id, hashlib.sha256(key.encode()).digest()),
        )
    return key


class Served:
    """A running API, callers for it, and a worker that decides when told to."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.dsn = settings.postgres.dsn
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.statuses: set[tuple[str, str, int]] = set()  # method, path, status of every answer
        self.announces = True  # whether the worker tells outcomes; to be set before it first works
        self._clients: list[httpx.Client] = []
        self._session: BatchSession | None = None
        self._processor: Processor | None = None

    def client(self, gateway_id: str | None = GATEWAY, **headers: str) -> httpx.Client:
        """A caller with this gateway's key, or with none."""
        if gateway_id is not None:
            headers = {"authorization": f"Bearer {key_of(gateway_id)}", **headers}
        made = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=30,
            event_hooks={"response": [self._note]},
        )
        self._clients.append(made)
        return made

    def post(self, body: Any = None, key: str = "k-1", **headers: str) -> httpx.Response:
        """Post an order's intent."""
        return self.client().post(
            "/v1/intents", json=body or ORDER, headers={"idempotency-key": key, **headers}
        )

    def work(self) -> None:
        """Decide all that is open, and announce it."""
        if self._processor is None:
            self._session = BatchSession(
                lambda: connect(self.dsn, WORKER, Bounds(), name="test-worker"), "w"
            )
            gate = open_gate(self.settings.valkey.url)
            tell = announcer(gate) if self.announces else (lambda outcomes, balances: None)
            self._processor = Processor(self._session, tell, batch_max=500)
        self._processor.run([], until=float("inf"))

    @contextmanager
    def worker(self, pause_s: float = 0.02) -> Iterator[None]:
        """A worker that decides again and again, as long as the block lasts."""
        ending = threading.Event()

        def decide() -> None:
            while not ending.wait(pause_s):
                self.work()

        thread = threading.Thread(target=decide)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def committed(self, **fields: Any) -> UUID:
        """Post an order and decide it; return its id."""
        reply = self.post({**ORDER, **fields}, key=f"k-{time.monotonic_ns()}")
        assert reply.status_code == 202, reply.text
        self.work()
        return UUID(reply.json()["intent_id"])

    def close(self) -> None:
        """Close what was opened."""
        for client in self._clients:
            client.close()
        if self._session is not None:
            self._session.close()

    def _note(self, response: httpx.Response) -> None:
        self.statuses.add(
            (response.request.method, response.request.url.path, response.status_code)
        )


def settings_for(dsn: str, valkey_url: str, **api: Any) -> Settings:
    """Settings of an API for tests."""
    return Settings(
        api=Api(port=0, **api),
        postgres=Postgres(dsn=dsn),
        valkey=Valkey(url=valkey_url, key_prefix="tidegate:"),  # as of `factories.open_gate`
        secrets=Secrets(master=MASTER),
    )


@contextmanager
def serve(settings: Settings) -> Iterator[Served]:
    """Serve the API on a free port, in a thread, as long as the block lasts."""
    listening = listen("127.0.0.1", 0, BACKLOG)
    server = make_server(settings)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listening])))
    served = Served(settings, listening.getsockname()[1])
    thread.start()
    try:
        _until(lambda: server.started, thread)
        yield served
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        served.close()
        assert not thread.is_alive(), "the API does not end"


def _until(reached: Any, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert thread.is_alive(), "the API ended"
        assert time.monotonic() < deadline, "the API does not start"
        time.sleep(0.01)
