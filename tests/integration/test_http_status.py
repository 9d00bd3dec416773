"""How it goes, asked for and streamed: by the real server, to as many as want to hear it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import resource
import select
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest
from http_kit import Served, key_of, serve, settings_for
from msgspec import Struct

from config.settings import Settings
from producer import levels
from producer.http import server, status
from producer.http.api import Api
from producer.http.auth import Gateway, Keys
from producer.http.messages import LANGUAGES, Messages
from producer.http.render import StatusView
from producer.http.status import Board
from producer.levels import LevelBook
from producer.sojourn import Sojourn
from workers.contract.gate import GateUnreachable, Published
from workers.domain.governor import Tuning
from workers.domain.overload import Level, Policy
from workers.service.govern import Governor, Heard, Look

LISTENERS = 2_000
CHAT = Gateway("chat", frozenset({"intents:read"}))


class Said(Struct, frozen=True):
    """What the gate tells."""

    policy: Policy | None
    epoch: int = 7
    lease_left_ms: int = 3_000
    in_flight: int = 0


class World:
    """A served API with nothing behind it but a level, which tests set."""

    def __init__(self) -> None:
        self.said: Said | None = Said(Policy())
        self.api: Api | None = None
        self.served: Served | None = None

    def ask(self) -> Said:
        """Answer for the gate."""
        if self.said is None:
            raise GateUnreachable
        return self.said

    def to(self, level: Level, **policy: Any) -> None:
        """Publish a level."""
        self.said = Said(Policy(level=level, reason="wait", since_ms=1_770_343_200_000, **policy))

    @property
    def board(self) -> Board:
        """The running API's board."""
        assert self.api is not None
        return self.api.board

    def get(self, gateway_id: str | None = "chat", path: str = "/v1/status") -> httpx.Response:
        """Ask how it goes."""
        assert self.served is not None
        return self.served.client(gateway_id).get(path)

    def listen(self, last: str | None = None, *, receive_bytes: int | None = None) -> Listener:
        """Open a stream."""
        assert self.served is not None
        return Listener(self.served.port, last, receive_bytes)


class PaperGate:
    """A gate that lends the lead to whoever asks, and whose word the API hears."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._policy: Policy | None = None

    def take_lead(self, owner: str, lease_ms: int) -> int:
        del owner, lease_ms
        return 7

    def policy(self) -> Published:
        return Published(self._policy, 7, 60_000, 0, True)

    def publish(self, policy: Policy, *, epoch: int, lease_ms: int) -> bool:
        del epoch, lease_ms
        self._policy = policy
        self._world.said = Said(policy)
        return True

    def tell_balances(self, balances: Any) -> None:
        raise AssertionError("nothing was read")


class PaperSources:
    """A quiet system that is looked at for a while, longer and longer."""

    def __init__(self) -> None:
        self._took_s = itertools.count(0.001, 0.001)

    def hear(self) -> Heard:
        return Heard(0, [])

    def look(self) -> Look:
        time.sleep(next(self._took_s))
        return Look(postgres_ms=1.0)


class Listener:
    """A stream, read by hand: a client that keeps no more than it must."""

    def __init__(
        self, port: int, last: str | None = None, receive_bytes: int | None = None
    ) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        resume = "" if last is None else f"Last-Event-ID: {last}\r\n"
        self.socket.sendall(
            f"GET /v1/status/stream HTTP/1.1\r\nHost: a\r\n{resume}"
            f"Authorization: Bearer {key_of('chat')}\r\n\r\n".encode()
        )
        self.heard = b""

    def events(self, count: int, timeout_s: float = 5) -> list[dict[str, str]]:
        """Return the first `count` events, as soon as they are there."""
        deadline = time.monotonic() + timeout_s
        while len(found := self._found()) < count:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{len(found)} events of {count}: {self.heard[-300:]!r}"
            if select.select([self.socket], [], [], left_s)[0]:
                piece = self.socket.recv(65_536)
                assert piece, "the stream ended"
                self.heard += piece
        return found

    def ends(self, timeout_s: float = 5) -> bytes:
        """Read to the end of the connection, and return the last bytes."""
        self.socket.settimeout(timeout_s)
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(65_536):
                self.heard += piece
        return self.heard[-5:]

    def _found(self) -> list[dict[str, str]]:
        blocks = [block for block in _unchunked(self.heard).split("\n\n") if "data: " in block]
        return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def _unchunked(raw: bytes) -> str:
    """Read the chunks of a body that are complete."""
    body, rest = b"", raw.partition(b"\r\n\r\n")[2]
    while True:
        size, found, rest = rest.partition(b"\r\n")
        length = int(size, 16) if found else 0
        if not length or len(rest) < length + 2:
            return body.decode()
        body, rest = body + rest[:length], rest[length + 2 :]


async def _load() -> dict[bytes, Gateway]:
    return {hashlib.sha256(key_of("chat").encode()).digest(): CHAT}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The real server, and only it."""
    monkeypatch.setattr(levels, "ASK_INTERVAL_S", 0.02)
    monkeypatch.setattr(levels, "SILENCE_S_MAX", 0.2)
    world = World()

    @asynccontextmanager
    async def open_api(settings: Settings) -> AsyncIterator[Api]:
        del settings
        book = LevelBook(world.ask)
        book.start()
        world.api = Api(
            intake=cast(Any, None),
            keys=Keys(_load),
            desk=cast(Any, None),
            waiters=cast(Any, SimpleNamespace(sojourn=Sojourn(), release=lambda: None)),
            messages=Messages(),
            codes=cast(Any, None),
            wait_max_s=30,
            draining=asyncio.Event(),
            overview=cast(Any, None),
            hints=cast(Any, None),
            levels=book,
        )
        yield world.api
        book.close()

    monkeypatch.setattr(server, "open_api", open_api)
    with serve(settings_for("", "redis://127.0.0.1:1/0", drain_timeout_s=5)) as served:
        world.served = served
        until(lambda: world.get().json().get("governed") is True)
        yield world


def until(reached: Callable[[], bool], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.01)


# Asked for --------------------------------------------------------------------------------------


def test_the_status_tells_what_the_contract_names(world: World) -> None:
    """To any key, and to nobody without; good for a second in the caller's cache."""
    world.to(Level.THROTTLED, predicted_wait_ms=4_200)
    until(lambda: world.get().json()["level"] == "throttled")
    reply = world.get()
    told = msgspec.json.decode(reply.content, type=StatusView)
    assert reply.headers["cache-control"] == "private, max-age=1"
    assert (told.issuance, told.redemption, told.estimated_wait_ms) == ("paused", "open", 4_200)
    assert (told.retry_after_ms, told.admit_ratio, told.governed) == (0, 1.0, True)
    assert reply.json()["since"] == "2026-02-06T02:00:00Z"
    assert set(told.messages) == set(LANGUAGES)
    for gateway_id in (None, "stranger"):
        assert world.get(gateway_id).status_code == 401
        assert world.get(gateway_id, "/v1/status/stream").status_code == 401


def test_without_the_gate_it_is_closed_and_says_why(world: World) -> None:
    """Each process finds that out by itself, and opens again by itself."""
    world.said = None
    until(lambda: world.get().json()["level"] == "closed")
    told = world.get().json()
    assert (told["reason"], told["redemption"], told["admit_ratio"]) == ("valkey", "paused", 0)
    assert (told["governed"], told["retry_after_ms"] > 0) == (False, True)
    world.said = Said(Policy())
    until(lambda: world.get().json()["level"] == "normal")


def test_a_lapsed_lease_is_told(world: World) -> None:
    """Nobody measures the load: the fixed limits hold, and whoever steers by this knows."""
    world.said = Said(Policy(level=Level.SHEDDING, reason="wait"), lease_left_ms=0)
    until(lambda: world.get().json()["governed"] is False)
    assert world.get().json()["level"] == "normal"


def test_the_status_is_rendered_once_for_all_who_ask(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand chats that ask in one second are told the same bytes."""
    rendered = []
    whole = status._view
    monkeypatch.setattr(status, "_view", lambda *args: rendered.append(1) or whole(*args))
    with world.served.client() as client:  # type: ignore[union-attr]
        for _ in range(100):
            assert client.get("/v1/status").status_code == 200
    assert len(rendered) <= 3


# Streamed ---------------------------------------------------------------------------------------


def test_a_stream_tells_how_it_stands_and_every_change_at_once(world: World) -> None:
    """The same text as asked for; ids grow."""
    listener = world.listen()
    [first] = listener.events(1)
    assert first["event"] == "status"
    assert json.loads(first["data"])["level"] == "normal"
    began = time.monotonic()
    world.to(Level.SHEDDING)
    _, second = listener.events(2)
    assert time.monotonic() - began < 1
    assert json.loads(second["data"])["level"] == "shedding"
    ids = [event["id"].split("-") for event in (first, second)]
    assert ids[0][:2] == ids[1][:2] == ["7", ids[0][1]]
    assert int(ids[0][2]) < int(ids[1][2])
    head = listener.heard.partition(b"\r\n\r\n")[0].lower()
    assert b"text/event-stream" in head
    assert b"cache-control: no-store" in head
    assert b"retry: " in listener.heard


def test_a_stream_goes_on_after_the_last_event_heard(world: World) -> None:
    """Nothing is told twice; and whoever missed something hears at once how it stands."""
    first = world.listen()
    last = first.events(1)[0]["id"]
    same, other = world.listen(last), world.listen("7-1-1")
    assert len(other.events(1)) == 1
    until(lambda: world.board.count == 3)
    world.to(Level.SHEDDING)
    assert json.loads(same.events(1)[0]["data"])["level"] == "shedding"
    late = world.listen(last)
    assert json.loads(late.events(1)[0]["data"])["level"] == "shedding"


def test_a_stream_hears_nothing_of_a_governor_whose_level_goes_on(world: World) -> None:
    """It publishes four times a second, and its looks take now longer, now shorter."""
    gate = PaperGate(world)
    governor = Governor(PaperSources(), gate, Tuning(), owner="test", lease_ms=60_000)
    for _ in range(2):
        governor.tick()
    until(lambda: world.board._levels.policy is gate.policy().policy)
    listener = world.listen()
    listener.events(1)
    for _ in range(20):
        governor.tick()
        until(lambda: world.board._levels.policy is gate.policy().policy)
    world.to(Level.SHEDDING)
    levels_told = [json.loads(event["data"])["level"] for event in listener.events(2)]
    assert levels_told == ["normal", "shedding"]


def test_a_stream_beats_while_nothing_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies close what is silent; and figures get old."""
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.1)
    told = world.listen().events(4, timeout_s=2)
    assert {json.loads(event["data"])["level"] for event in told} == {"normal"}
    assert len({event["id"] for event in told}) == 4


def test_too_many_streams_are_refused_clearly(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wait, and what to do instead; a place that is left is free again."""
    monkeypatch.setattr(status, "LISTENERS_MAX", 2)
    first, _second = world.listen(), world.listen()
    until(lambda: world.board.count == 2)
    refused = world.get(path="/v1/status/stream")
    assert (refused.status_code, refused.json()["limit"]) == (503, "streams")
    assert int(refused.headers["retry-after"]) >= 10
    assert "/v1/status" in refused.json()["detail"]
    first.socket.close()
    until(lambda: world.board.count == 1)
    assert world.listen().events(1)


def test_who_does_not_read_is_cut_off_and_no_other_notices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is buffered for: of a status only the latest counts."""
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.002)
    deaf, hearing = world.listen(receive_bytes=4_096), world.listen()
    until(lambda: world.board.count == 2)
    for transport in list(world.board._listeners):  # or the kernel would keep megabytes
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    deadline = time.monotonic() + 20
    while world.board.count == 2:
        assert time.monotonic() < deadline, "the deaf one is kept"
        assert hearing.socket.recv(65_536)
    for _ in range(10):
        assert hearing.socket.recv(65_536)
    assert deaf.ends() != b"0\r\n\r\n"


def test_streams_end_when_the_process_drains(world: World) -> None:
    """With the last chunk, so that no client takes it for a fault; and without keeping the end up."""
    listeners = [world.listen() for _ in range(20)]
    for listener in listeners:
        listener.events(1)
    assert world.served is not None
    world.board._loop.call_soon_threadsafe(world.board.end)
    assert {listener.ends() for listener in listeners} == {b"0\r\n\r\n"}
    refused = world.get(path="/v1/status/stream")
    assert refused.status_code == 503


def test_head_is_answered_without_a_stream(world: World) -> None:
    """As for any GET."""
    assert world.served is not None
    assert world.served.client().head("/v1/status/stream").status_code == 200
    assert world.board.count == 0


def test_another_server_streams_the_same() -> None:
    """Without a connection to borrow, each listener has its own iterator over the same events."""

    async def scenario() -> None:
        book = LevelBook()
        board = Board(book, Messages(), lambda: 250)
        pieces = board.pieces(b"")
        assert b"event: status" in await anext(pieces)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        assert board.count == 1
        book.standing = levels.Standing(level=Level.SHEDDING)
        board._tell()
        assert b"shedding" in await asyncio.wait_for(waiting, 1)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        board.end()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 1)
        assert board.count == 0

    asyncio.run(scenario())


def test_two_thousand_listen_for_little(world: World) -> None:
    """What a listener weighs, and how long it takes until the last has heard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * LISTENERS + 500:
        pytest.skip(f"needs {2 * LISTENERS + 500} files, may open {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listeners: list[Listener] = []
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(0.000_5)  # as in the API's own process
    try:
        listeners = [world.listen() for _ in range(20)]  # what the first ones cost is not theirs
        _heard_by_all(listeners, b'"normal"', keep=True)
        before = _resident()
        listeners += [world.listen() for _ in range(LISTENERS - 20)]
        _heard_by_all(listeners, b'"normal"', keep=True)
        until(lambda: world.board.count == LISTENERS)
        each = (_resident() - before) / (LISTENERS - 20)
        for listener in listeners:
            listener.heard = b""
        began, cpu = time.monotonic(), time.process_time()
        world.to(Level.SHEDDING)
        _heard_by_all(listeners, b'"shedding"')
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
        print(
            f"{each / 1_024:.1f} KiB a listener; all told in {took_s * 1e3:.0f} ms,"
            f" {cpu_s / LISTENERS * 1e6:.0f} µs of CPU each, the listeners' own included"
        )
        assert each < 30 * 1_024
        assert took_s < 3
    finally:
        for listener in listeners:
            listener.socket.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sys.setswitchinterval(interval_s)


def _heard_by_all(listeners: list[Listener], text: bytes, *, keep: bool = False) -> None:
    """Read until every listener has heard the text; forget what it heard, unless told to keep it."""
    waiting = {listener.socket.fileno(): listener for listener in listeners}
    for fd, listener in list(waiting.items()):
        if text in listener.heard:
            del waiting[fd]
    poll = select.epoll()
    for fd in waiting:
        poll.register(fd, select.EPOLLIN)
    deadline = time.monotonic() + 20
    while waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} have not heard"
        for fd, _ in poll.poll(1):
            listener = waiting.get(fd)
            if listener is None:
                continue
            piece = listener.socket.recv(65_536)
            assert piece, "cut off"
            if text in piece:
                del waiting[fd]
                poll.unregister(fd)
            if keep:
                listener.heard = text
    poll.close()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
