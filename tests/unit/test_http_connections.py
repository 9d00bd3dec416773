"""Connections: plain calls of the hot route take a short way, and nobody can tell the difference."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from producer.http import connections
from producer.http.calls import INTENT_BYTES_MAX, JSON_HEADER, Fields, Reply
from producer.http.connections import CALLS_WAITING_MAX, HEADER_BYTES_MAX, Connection

Tell = Callable[[Reply], None]
REPLY = Reply(202, b'{"short": true}', [JSON_HEADER])
POST = b"POST /v1/intents HTTP/1.1\r\nHost: x\r\n"


class Door:
    """A server on loopback whose hot route notes its calls; the rest is an echo."""

    def __init__(self) -> None:
        self.calls: list[tuple[Fields, bytes, Tell]] = []
        self.takes = True  # whether the hot route takes calls
        self.at_once = True  # whether it answers them before it returns
        self.made: list[weakref.ref[Connection]] = []
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.port = 0

    def hot(self, fields: Fields, body: bytes, tell: Tell) -> bool:
        if self.takes:
            self.calls.append((fields, body, tell))
            if self.at_once:
                tell(REPLY)
        return self.takes

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        text = b"%b %b %d" % (scope["method"].encode(), scope["path"].encode(), len(body))
        names = {name for name, _ in scope["headers"]}
        headers = [(b"content-length", b"%d" % len(text)), (b"x-names", b",".join(sorted(names)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def connection(self) -> Connection:
        config = uvicorn.Config(
            self.echo, interface="asgi3", lifespan="off", log_config=None, proxy_headers=False
        )
        config.load()
        made = Connection(self.hot, config, self.state, {})
        self.made.append(weakref.ref(made))
        return made


class Caller:
    """One connection to the door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await self.reader.readexactly(length)


@asynccontextmanager
async def calling(door: Door) -> AsyncIterator[Caller]:
    server = await asyncio.get_running_loop().create_server(door.connection, "127.0.0.1", 0)
    caller = Caller(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    try:
        yield caller
    finally:
        caller.writer.close()
        server.close()


def run(scenario: Callable[[Door, Caller], Awaitable[None]]) -> None:
    async def whole() -> None:
        door = Door()
        async with asyncio.timeout(10), calling(door) as caller:
            await scenario(door, caller)

    asyncio.run(whole())


async def until(reached: Callable[[], bool], what: str = "") -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5
    while not reached():
        assert loop.time() < deadline, what
        await asyncio.sleep(0.001)


def body_of(length: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % length + b"x" * length


def test_a_plain_post_takes_the_short_way_again_and_again() -> None:
    """Its fields and its body arrive as sent; the connection stays open for the next."""

    async def scenario(door: Door, caller: Caller) -> None:
        for _ in range(3):
            caller.send(POST + b"Idempotency-Key: K\r\n" + body_of(5))
            head, body = await caller.answer()
            assert head.startswith(b"HTTP/1.1 202 Accepted\r\n")
            assert b"content-type: application/json\r\n" in head
            assert b"\r\ndate: today\r\n" in head
            assert body == REPLY.body
        assert [(body, (b"idempotency-key", b"K") in fields) for fields, body, _ in door.calls] == [
            (b"xxxxx", True)
        ] * 3

    run(scenario)


def test_a_body_in_pieces_is_put_together() -> None:
    """Chunked, and byte by byte: the parser is the same as for everybody."""

    async def scenario(door: Door, caller: Caller) -> None:
        sent = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        for at in range(len(sent)):
            caller.send(sent[at : at + 1])
            await asyncio.sleep(0)
        await caller.answer()
        assert door.calls[0][1] == b"abcde"

    run(scenario)


def test_what_the_hot_route_does_not_take_goes_on_as_if_it_came_just_now() -> None:
    """All fields, the whole body, once."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.takes = False
        for _ in range(2):
            caller.send(POST + body_of(7))
            head, body = await caller.answer()
            assert body == b"POST /v1/intents 7"
            assert b"x-names: content-length,host" in head

    run(scenario)


def test_unusual_calls_do_not_take_the_short_way() -> None:
    """Too large, another method, another path, an older protocol, or a caller who asks first."""

    async def scenario(door: Door, caller: Caller) -> None:
        large = INTENT_BYTES_MAX + 1
        for sent, told in (
            (POST + body_of(large), b"POST /v1/intents %d" % large),
            (b"PUT" + POST[4:] + body_of(1), b"PUT /v1/intents 1"),
            (POST.replace(b"intents", b"intents/") + body_of(1), b"POST /v1/intents/ 1"),
            (POST.replace(b"intents", b"intents?a=1") + body_of(1), b"POST /v1/intents 1"),
            (POST.replace(b"1.1", b"1.0") + b"X: 1\r\n" + body_of(1), b"POST /v1/intents 1"),
        ):
            caller.send(sent)
            assert (await caller.answer())[1] == told
        assert door.calls == []

    run(scenario)


def test_pipelined_calls_wait_for_the_one_on_the_short_way() -> None:
    """Answers come in the order of the calls."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.at_once = False
        caller.send(
            POST + body_of(1) + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + POST + body_of(2)
        )
        await until(lambda: bool(door.calls))
        await asyncio.sleep(0.02)
        assert len(door.calls) == 1
        door.calls[0][2](REPLY)
        assert (await caller.answer())[1] == REPLY.body
        assert (await caller.answer())[1] == b"GET /livez 0"
        assert (await caller.answer())[1] == b"POST /v1/intents 2"

    run(scenario)


def test_an_answer_that_is_told_twice_is_sent_once() -> None:
    """The second would be taken for the answer to the next call: somebody else's order."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.at_once = False
        caller.send(POST + body_of(1))
        await until(lambda: bool(door.calls))
        tell = door.calls[0][2]
        tell(REPLY)
        tell(Reply(200, b'{"another": true}', [JSON_HEADER]))
        assert (await caller.answer())[1] == REPLY.body
        caller.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await caller.answer())[1] == b"GET /livez 0"

    run(scenario)


def test_a_shutdown_waits_for_the_answer_and_then_closes() -> None:
    """A receipt that is under way is told."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.at_once = False
        caller.send(POST + body_of(1))
        await until(lambda: bool(door.calls))
        connection = door.made[0]()
        assert connection is not None
        connection.shutdown()
        await asyncio.sleep(0.02)
        door.calls[0][2](REPLY)
        head, _ = await caller.answer()
        assert b"connection: close\r\n" in head
        assert await caller.reader.read() == b""

    run(scenario)


async def _with_a_call_under_way(door: Door, caller: Caller) -> None:
    door.at_once = False
    caller.send(POST + body_of(1))
    await until(lambda: bool(door.calls))


async def _with_another_call_queued(door: Door, caller: Caller) -> None:
    door.at_once = False
    caller.send(POST + body_of(1) + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: bool(door.calls))
    connection = door.made[0]()
    assert connection is not None
    await until(lambda: bool(connection.pipeline))
    connection.transport.abort()  # while calls are queued nobody reads, and hears that he is gone


async def _with_every_call_answered(door: Door, caller: Caller) -> None:
    for sent in (POST + body_of(1), b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"):
        caller.send(sent)
        await caller.answer()
    door.calls.clear()
    # With a linger of zero a close is a reset: the connection breaks off.
    plug = caller.writer.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "leaving", [_with_a_call_under_way, _with_another_call_queued, _with_every_call_answered]
)
def test_a_caller_who_is_gone_harms_nobody_and_leaves_nothing(
    leaving: Callable[[Door, Caller], Awaitable[None]],
) -> None:
    """The answer is dropped, and no circle of objects waits for the collector."""

    async def scenario(door: Door, caller: Caller) -> None:
        await leaving(door, caller)
        caller.writer.transport.abort()
        await until(lambda: not door.state.connections)
        while door.calls:
            door.calls.pop()[2](REPLY)
        await until(lambda: door.made[0]() is None, "the connection's objects are let go of")

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize("takes", [True, False])
def test_a_trailer_is_no_field(takes: bool) -> None:
    """Neither a key nor an idempotency key comes after the body; nor does it reach the next call."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.takes = takes
        for _ in range(2):
            caller.send(CHUNKED + b"Authorization: Bearer tg_x\r\nIdempotency-Key: K\r\n\r\n")
            head, _ = await caller.answer()
            assert b"authorization" not in head, "the echo names the fields it was given"
        for fields, body, _ in door.calls:
            assert [name for name, _ in fields] == [b"host", b"transfer-encoding"]
            assert body == b"x"
        assert len(door.calls) == 2 * takes

    run(scenario)


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("begins", [b"", b"x: "])
def test_trailers_without_end_are_cut_off(takes: bool, begins: bytes) -> None:
    """Many of them, or one: nobody has shown a key by then."""

    async def scenario(door: Door, caller: Caller) -> None:
        door.takes = takes
        caller.send((CHUNKED if takes else CHUNKED.replace(b"POST", b"PUT")) + begins)
        piece = b"y" * 10_000 if begins else b"y: z\r\n" * 2_000
        sent = 0
        with contextlib.suppress(ConnectionError):
            while door.state.connections or not sent:
                caller.send(piece)
                await caller.writer.drain()
                sent += len(piece)
                assert sent < 100_000_000
                await asyncio.sleep(0)
        assert door.calls == []

    run(scenario)


def test_a_body_longer_than_any_header_may_be_is_read_to_its_end() -> None:
    """What comes as a body is bounded by whoever reads it."""

    async def scenario(door: Door, caller: Caller) -> None:
        for _ in range(2):
            caller.send(b"PUT /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(300):
                caller.send(b"3e8\r\n" + b"z" * 1_000 + b"\r\n")
            caller.send(b"0\r\n\r\n")
            assert (await caller.answer())[1] == b"PUT /v1/x 300000"

    run(scenario)


# Bombs ---------------------------------------------------------------------------------------------

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "line", [b"x: %b\r\n" % (b"y" * 9_000), b"x:\r\n"], ids=["long lines", "many lines"]
)
@pytest.mark.parametrize("call", [POST, GET])
def test_a_head_is_bounded_even_where_it_comes_at_once(call: bytes, line: bytes) -> None:
    """It may end in the very piece in which it became too long."""

    async def scenario(door: Door, caller: Caller) -> None:
        fields = line * (2 * HEADER_BYTES_MAX // max(len(line) - 4, 1))
        caller.send(call + fields + b"\r\n")
        head, _ = await caller.answer()
        assert head.startswith(b"HTTP/1.1 431 ")
        with contextlib.suppress(ConnectionError):
            assert await caller.reader.read() == b""
        assert door.calls == []

    run(scenario)


@pytest.mark.parametrize("call", [POST + body_of(1), GET + b"\r\n"])
def test_who_sends_too_many_calls_ahead_of_their_answers_is_cut_off(call: bytes) -> None:
    """A call that waits takes a hundred times the bytes it came in."""

    async def scenario(door: Door, caller: Caller) -> None:
        await _with_a_call_under_way(door, caller)
        connection = door.made[0]()
        assert connection is not None
        connection.data_received(call * CALLS_WAITING_MAX)
        assert len(connection.pipeline) == CALLS_WAITING_MAX
        connection.data_received(call * 1_000)
        assert len(connection.pipeline) == CALLS_WAITING_MAX + 1
        with contextlib.suppress(ConnectionError):
            assert await caller.reader.read() == b"", "answered nothing out of its turn"
        await until(lambda: not door.state.connections)

    run(scenario)


def test_as_many_calls_as_may_wait_are_answered() -> None:
    async def scenario(door: Door, caller: Caller) -> None:
        await _with_a_call_under_way(door, caller)
        caller.send((GET + b"\r\n") * CALLS_WAITING_MAX)
        door.calls[0][2](REPLY)
        told = [(await caller.answer())[1] for _ in range(1 + CALLS_WAITING_MAX)]
        assert told == [REPLY.body, *[b"GET /livez 0"] * CALLS_WAITING_MAX]

    run(scenario)


def test_what_is_no_call_is_not_answered_in_anothers_place() -> None:
    """With a call under way its caller would take the refusal for that call's answer."""

    async def scenario(door: Door, caller: Caller) -> None:
        await _with_a_call_under_way(door, caller)
        caller.send(b"nonsense\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert await caller.reader.read() == b""

    run(scenario)


class Pipe(asyncio.Transport):
    """A connection whose caller takes so much of an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.unread_bytes = 200_000
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def abort(self) -> None:
        self.aborted = True


def test_who_takes_nothing_of_an_answer_is_let_go_and_a_slow_one_is_not() -> None:
    """Judged by what is left to send, each time it is looked at."""

    async def scenario(door: Door, caller: Caller) -> None:
        del caller
        pipe, connection = Pipe(), door.connection()
        connection.connection_made(pipe)
        connection.receiving_since = None
        connection.pause_writing()
        patience_s = connections.UNREAD_TIMEOUT_S
        for turn in range(10):
            pipe.unread_bytes -= 1
            connections._close_overdue([connection], turn * 0.9 * patience_s)
        assert not pipe.aborted
        connection.resume_writing()
        connections._close_overdue([connection], 20 * patience_s)
        connection.pause_writing()
        connections._close_overdue([connection], 30 * patience_s)
        assert not pipe.aborted
        connections._close_overdue([connection], 31.1 * patience_s)
        assert pipe.aborted

    run(scenario)
