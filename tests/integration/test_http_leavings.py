"""What calls leave behind: nothing. The collector looks at old objects seldom; they would pile up."""

from __future__ import annotations

import gc
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from http_kit import Served, add_gateway, key_of, serve, settings_for
from kit import comes_true
from msgspec.json import encode
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from producer.http.calls import Call
from producer.http.connections import Connection, _HotCycle
from producer.waiters import Waiter
from tests.factories import GATEWAY, add_campaign, open_gate

_OF_A_CALL = (Connection, RequestResponseCycle, _HotCycle, Call, Waiter)
_TIMES = 3


@pytest.fixture
def api(dsn: str, valkey_url: str) -> Iterator[Served]:
    """An API whose objects nobody collects."""
    add_campaign(dsn)
    add_gateway(dsn)
    open_gate(valkey_url)
    with serve(settings_for(dsn, valkey_url)) as served:
        gc.collect()
        gc.disable()
        try:
            yield served
        finally:
            gc.enable()


def _post(user: str, *more: str, path: str = "", **fields: object) -> bytes:
    intent = {"user_id": user, "campaign_id": "spring", "lines": [{"sku": "tea", "quantity": 1}]}
    return _call(f"POST /v1/intents{path}", encode({**intent, **fields}), *more)


def _call(line: str, body: bytes = b"", *more: str) -> bytes:
    fields = [
        f"{line} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {key_of(GATEWAY)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*fields, "", ""]).encode() + body


def _alive() -> Counter[str]:
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in _OF_A_CALL)


def test_calls_of_every_kind_leave_nothing_for_the_collector(api: Served) -> None:
    """Answered or not, waited for or not, whoever ends the connection."""
    intent_id = api.committed()
    undecided = api.post(key="undecided").json()["intent_id"]
    posts = [_post(f"v-{n}", f"Idempotency-Key: left-{n}") for n in range(_TIMES)]
    wait = _post("v-0", "Idempotency-Key: left-0", "Prefer: wait=1")
    one_of_each = [
        _post("v-0", "Idempotency-Key: left-0", ttl_ms=5_000),  # another intent
        _post("w-0", "Idempotency-Key: wait-0", "Prefer: wait=1"),
        _post("v-0", "Idempotency-Key: left-0", unknown=1),
        _post("v-0"),
        _call("POST /v1/intents/batch", b"[" + b",".join([b"{}"] * 3) + b"]"),
        _call(f"GET /v1/intents/{intent_id}"),
        _call(f"GET /v1/intents/{intent_id}/events"),
        _call("GET /v1/status"),
        _call("GET /nowhere"),
    ]
    for sent in (*posts, *posts, wait, *one_of_each):
        _heard(api, sent)
    endless = [_call("GET /v1/status/stream"), _call(f"GET /v1/intents/{undecided}/events")]
    for sent in (*endless, *endless):
        _heard(api, sent)
    for sent in (posts[0][:30], posts[0][:-1], wait, posts[0] + _call("GET /livez")):
        _left(api, sent)
    _hold(api, _post("v-0", "Idempotency-Key: left-0", "Prefer: wait=2"), endless[0])
    api.close()  # its callers
    deadline = time.monotonic() + 10
    while left := _alive():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _hold(api: Served, *calls: bytes) -> None:
    """Stay with calls until each kind of object is seen alive: what is watched is what they use."""
    with ExitStack() as callers:
        for sent in calls:
            caller = socket.create_connection(("127.0.0.1", api.port), timeout=10)
            callers.enter_context(caller).sendall(sent)
        unseen = {kind.__name__ for kind in _OF_A_CALL}

        def all_seen() -> bool:
            unseen.difference_update(_alive())
            return not unseen

        assert comes_true(all_seen), unseen


def _heard(api: Served, sent: bytes) -> None:
    """Call, hear the beginning of the answer, and leave."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as caller:
        caller.sendall(sent)
        assert caller.recv(4_096).startswith(b"HTTP/1.1 ")


def _left(api: Served, sent: bytes) -> None:
    """Call, and leave without an answer."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as caller:
        caller.sendall(sent)
