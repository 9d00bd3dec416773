"""What a user sends is in no log, no metric and no problem, wherever he may write it.

A canary, and a text that would be a log line of its own, are sent in every field there is, over
HTTP and over the broker, to a healthy cluster, to a closed one, and to one whose servers are killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import redis
from celery import Celery

from deploy.cli import main
from deploy.embedded.cluster import Cluster
from producer.celery_intake import KEY_ID_HEADER, SIGNATURE_HEADER, canonical
from tests.acceptance.driver import wait_until_drained
from workers.contract.celery_app import make_app
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE, SUBMIT_INTENT_TASK
from workers.contract.signing import sign, signing_key

CANARY = "canary-7d41f0c2"  # a name, a locale, a key: whatever takes letters takes it
FORGED = '\n{"level":"error"}'
TEXTS = (CANARY, CANARY + FORGED, f"\x1b[31m{CANARY}\u2028{FORGED}", CANARY * 60)
SERVERS = ("postgres.log", "valkey.log")  # their own lines, in their own form
LEVELS = {"debug", "info", "warning", "error", "critical"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
JSON = "application/json"


class Caller:
    """Sends bytes as they are, and keeps every answer."""

    def __init__(self, cluster: Cluster) -> None:
        where = urlsplit(cluster.api_url)
        self._address = (where.hostname, where.port)
        self._key = cluster.api_key
        self._keys = iter(range(1_000_000))
        self.answers: list[tuple[int, dict[str, str], bytes]] = []

    def call(
        self, line: str, body: bytes = b"", kind: str = JSON, **headers: str | bytes
    ) -> tuple[int, Any]:
        """Make one call; underscores in the names of header fields stand for hyphens."""
        fields: dict[str, str | bytes] = {
            "host": "x",
            "connection": "close",
            "authorization": f"Bearer {self._key}",
            "idempotency_key": f"k-{next(self._keys)}",
            "content_type": kind,
            "content_length": str(len(body)),
            **headers,
        }
        lines = [f"{line} HTTP/1.1".encode()]
        for name, value in fields.items():
            raw = value if isinstance(value, bytes) else value.encode()
            lines.append(name.replace("_", "-").encode() + b": " + raw)
        return self.send(b"\r\n".join([*lines, b"", body]))

    def send(self, raw: bytes, timeout_s: float = 30) -> tuple[int, Any]:
        """Send bytes; return the status and the body, 0 where nothing came."""
        answer = b""
        with suppress(OSError), socket.create_connection(self._address, timeout_s) as connection:
            connection.sendall(raw)
            while piece := connection.recv(65_536):
                answer += piece
        if not answer:
            return 0, None
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest)
        status = int(first.split()[1])
        self.answers.append((status, headers, body))
        is_json = headers.get("content-type") in (JSON, "application/problem+json")
        return status, json.loads(body) if is_json else body


def order(**fields: Any) -> dict[str, Any]:
    line = {"sku": "milk-tea-large", "quantity": 1}
    return {"user_id": "u-1", "campaign_id": "dev", "lines": [line], **fields}


def wishes(text: str) -> Iterator[dict[str, Any]]:
    """An order with the text in each field in turn, and where a number or a field should be."""
    for name in ("user_id", "campaign_id", "coupon_code", "conversation_id", "locale", "ttl_ms"):
        yield order(**{name: text})
    yield order(lines=[{"sku": text, "quantity": 1}])
    yield order(lines=[{"sku": "milk-tea-large", "quantity": text}])
    yield order(expected_total={"amount": 1800, "currency": text})
    yield order(expected_total=text)


def post_everything(caller: Caller, text: str) -> None:
    """Every body, every header field, every path and query that takes a text."""
    bodies = list(wishes(text))
    for body in bodies:
        raw = json.dumps(body).encode()
        caller.call("POST /v1/intents", raw)
        caller.call("POST /v1/intents", raw, prefer="wait=1")
        wish = {name: body[name] for name in body if name not in ("lines", "expected_total")}
        wish.pop("coupon_code", None)
        caller.call("POST /v1/coupons", json.dumps(wish).encode())
    items = [{**body, "idempotency_key": f"{n}{text}"} for n, body in enumerate(bodies)]
    items.append(order(idempotency_key="k", appointment=text))
    caller.call("POST /v1/intents/batch", json.dumps(items).encode())
    lines = "\n".join(json.dumps(item) for item in items) + f"\n{text}\n"
    caller.call("POST /v1/intents/batch", lines.encode(), "application/x-ndjson")

    inline = text.replace("\n", " ").encode()  # an HTTP field is one line
    plain = json.dumps(order()).encode()
    for name in (
        "authorization",
        "accept_language",
        "baggage",
        "content_encoding",
        "content_type",
        "cookie",
        "idempotency_key",
        "last_event_id",
        "prefer",
        "tidegate_appointment",
        "traceparent",
        "tracestate",
        "user_agent",
        "x_request_id",
    ):
        for value in (inline, b'"' + inline + b'"', b"Bearer tg_" + inline):
            caller.call("POST /v1/intents", plain, **{name: value})
            caller.call("GET /v1/intents?user_id=u&idempotency_key=k", **{name: value})
    caller.call("POST /v1/intents", plain, traceparent=f"00-{TRACE}-{CANARY}-01")

    safe = quote(text, safe="")
    for path in (
        f"/{safe}",
        f"/v1/intents/{safe}",
        f"/v1/intents/{safe}/events",
        f"/v1/users/{safe}/coupons",
        f"/v1/orders/{safe}/payment",
        f"/problems/{safe}",
        f"/v1/intents?user_id={safe}&idempotency_key={safe}&kind={safe}",
        f"/v1/status?x={safe}#{safe}",
    ):
        for method in ("GET", "POST", "DELETE"):
            caller.call(f"{method} {path}", plain)


def send_rubbish(caller: Caller) -> None:
    """What is no JSON, no chunk, no header, no HTTP."""
    raw = CANARY.encode()
    for body in (
        raw,
        b'{"user_id": "' + raw,
        b'{"user_id": "\xff' + raw + b'"}',
        b"[" * 5_000 + raw,
    ):
        for path in ("/v1/intents", "/v1/coupons", "/v1/intents/batch"):
            caller.call(f"POST {path}", body)
    caller.call("POST /v1/intents", json.dumps(order(user_id=CANARY * 5_000)).encode())
    head = b"POST /v1/intents HTTP/1.1\r\nhost: x\r\n"
    for rest in (
        b"transfer-encoding: chunked\r\n\r\n" + raw + b"\r\n",
        b"transfer-encoding: " + raw + b"\r\n\r\n",
        b"content-length: " + raw + b"\r\n\r\n",
        b"x-request-id: a\r\n " + raw + b"\r\n\r\n",
        b"x-request-id: \x01" + raw + b"\r\n\r\n",
        raw + b"\r\n\r\n",
        raw * 10_000,
    ):
        caller.send(head + rest, timeout_s=2)
    caller.send(raw + b" /v1/intents HTTP/1.1\r\nhost: x\r\n\r\n", timeout_s=2)
    caller.send(raw + b"\r\n\r\n", timeout_s=2)


def pay(caller: Caller) -> None:
    """A payment's reference, right and wrong, with text where the amount should be."""
    status, told = caller.call("POST /v1/intents", json.dumps(order()).encode(), prefer="wait=20")
    assert (status, told["status"]) == (200, "committed"), told
    path = f"POST /v1/orders/{told['order']['order_id']}/payment"
    for text in TEXTS:
        for amount in (1, text):
            paid = {"payment_reference": text, "amount": amount}
            caller.call(path, json.dumps(paid).encode())
    paid = {"payment_reference": CANARY, "amount": told["order"]["payable"]}
    assert caller.call(path, json.dumps(paid).encode())[0] == 200
    again = {**paid, "payment_reference": f"{CANARY}-2"}
    assert caller.call(path, json.dumps(again).encode())[0] == 409


def publish_everything(cluster: Cluster) -> None:
    """Signed and unsigned lists, headers, names, arguments, bytes that are no message."""
    app = make_app(cluster.settings)
    with redis.Redis.from_url(cluster.valkey_url) as client:
        for queue in (INTAKE_QUEUE, ORDERS_QUEUE):
            for text in TEXTS:
                _send_tasks(app, cluster, queue, text)
                client.lpush(queue, text, json.dumps({"body": text}), json.dumps([text]))
        wait_for(lambda: client.llen(INTAKE_QUEUE) == client.llen(ORDERS_QUEUE) == 0)


def _send_tasks(app: Celery, cluster: Cluster, queue: str, text: str) -> None:
    with psycopg.connect(cluster.dsn) as connection:
        found = connection.execute("SELECT key_id FROM tidegate.gateway_keys").fetchall()
    ((key_id,),) = found
    at = datetime.now(UTC).isoformat()
    good = {"idempotency_key": f"{queue}{text}"[:200], "submitted_at": at}
    lists: list[Any] = [[{**wish, **good}] for wish in wishes(text)]
    lists += [text, [text], [{text: text}], [{**order(), **good, text: text}]]
    lists.append([{**order(), **good, "submitted_at": text}])
    for intents in lists:
        signature = sign(canonical(intents), signing_key(cluster.settings.secrets.master, key_id))
        signed = {KEY_ID_HEADER: key_id, SIGNATURE_HEADER: signature}
        for headers in (signed, {KEY_ID_HEADER: text, SIGNATURE_HEADER: text}, {}):
            given = {**headers, "traceparent": text, "x": text}
            sent = {"exchange": "", "routing_key": queue, "headers": given}
            app.send_task(SUBMIT_INTENT_TASK, args=(intents,), **sent)
    sent = {"exchange": "", "routing_key": queue, "headers": {"traceparent": text}}
    for name in (SUBMIT_INTENT_TASK, "tidegate.process_batch", text):
        app.send_task(name, args=(text,), task_id=text, **sent)
        app.send_task(name, args=([text],), kwargs={text: text}, **sent)
    with app.producer_pool.acquire(block=True, timeout=5) as producer:
        for kind in ("application/x-python-serialize", text):
            more: dict[str, Any] = {"content_type": kind, "content_encoding": text}
            producer.publish(text.encode(), exchange="", routing_key=queue, retry=False, **more)
        producer.publish({"no": text}, exchange="", routing_key=queue, retry=False)


@contextmanager
def rude_receiver() -> Iterator[str]:
    """A receiver of webhooks that answers with no HTTP at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(f"{CANARY}{FORGED}\r\n\r\n".encode())

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def command(cluster: Cluster, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main((*arguments, "--data", str(cluster.data)))
    assert not ended.value.code


def wait_for(holds: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask_in_trouble(cluster: Cluster, caller: Caller) -> None:
    """A closed system refuses, and one whose servers die has errors of its libraries to tell."""
    wish = json.dumps(order(user_id=CANARY, conversation_id=CANARY)).encode()

    def status() -> int:
        return caller.call("POST /v1/intents", wish)[0]

    def level() -> Any:
        traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
        return caller.call("POST /v1/intents", wish, traceparent=traceparent)[1].get("level")

    command(cluster, "level", "close", "--reason", "drill")
    wait_for(lambda: level() == "closed")
    command(cluster, "level", "open")
    wait_for(lambda: status() == 202)
    for role in ("valkey", "postgres"):
        before = cluster.processes()[role]
        os.kill(before[0], signal.SIGKILL)
        while cluster.processes().get(role, before) == before:
            status()
        wait_for(lambda: status() == 202)


def metrics_of(cluster: Cluster) -> str:
    told = []
    for url in cluster.endpoints().metrics.values():
        with urllib.request.urlopen(url, timeout=10) as reply:
            told.append(reply.read().decode())
    return "\n".join(told)


def problems_in(answers: list[tuple[int, dict[str, str], bytes]]) -> Iterator[str]:
    """What was told of all that was refused, alone or as an item of a batch."""
    for status, headers, body in answers:
        if status >= 400:
            yield body.decode() + "\n".join(f"{name}: {text}" for name, text in headers.items())
        elif body.lstrip().startswith((b"[", b'{"status_code"')):
            items = (
                json.loads(body) if body.startswith(b"[") else map(json.loads, body.splitlines())
            )
            yield from (json.dumps(item) for item in items if item.get("status_code", 0) >= 400)


def events_of(logs: Path) -> list[dict[str, Any]]:
    """All lines of all our processes; each must be an event."""
    found = []
    for file in sorted(logs.glob("*.log")):
        if file.name not in SERVERS:
            for line in file.read_text().splitlines():
                event = json.loads(line)
                assert {event["level"]} <= LEVELS, line
                assert {"at", "process", "pid", "event"} <= event.keys(), line
                found.append(event)
    return found


@pytest.mark.slow
@pytest.mark.timeout(290)
def test_what_a_user_sends_is_in_no_log_no_metric_and_no_problem(tmp_path: Path) -> None:
    """And whatever he sends, every log line is one JSON object of ours, those of `debug` too."""
    told_all = {"TIDEGATE_LOG__LEVEL": "debug", "TIDEGATE_LOG__SAMPLE_SHARE": "1"}
    data = tmp_path / "data"
    with rude_receiver() as receiver, Cluster(data, workers=1, extra_env=told_all) as cluster:
        caller = Caller(cluster)
        command(cluster, "webhook", "register", "dev", receiver)
        for text in TEXTS:
            post_everything(caller, text)
        send_rubbish(caller)
        pay(caller)
        publish_everything(cluster)
        ask_in_trouble(cluster, caller)
        wait_until_drained(cluster.dsn)
        metrics = metrics_of(cluster)

    events = events_of(data / "logs")
    assert [event for event in events if CANARY in json.dumps(event)] == []
    assert CANARY not in metrics
    assert [told for told in problems_in(caller.answers) if CANARY in told] == []
    is_no_silence(events, caller)


def is_no_silence(events: list[dict[str, Any]], caller: Caller) -> None:
    """What was to be told was told: the canary is not missing for want of lines."""
    said = Counter(event["event"] for event in events)
    assert said["request"] > 400
    assert said["batch"] > 5
    assert said["submitted intents taken"] > 1
    assert said["submitted intents dropped"] > 1
    assert said["webhook not delivered"]
    assert said["gate unreachable"] + said["journal failed"] + said["store not asked"]
    assert any(event.get("logger", "").startswith("celery.worker") for event in events)
    statuses = Counter(status for status, _, _ in caller.answers)
    assert {200, 202, 400, 401, 404, 503} <= statuses.keys()

    assert any(event.get("campaign") == "dev" for event in events)
    users = {event["user_id"] for event in events if "user_id" in event}
    assert users
    assert all(len(user) == 12 and int(user, 16) >= 0 for user in users)
    # What was told of the closed system is found by the trace that the gateway gave it.
    traced = [event for event in events if event.get("trace_id") == TRACE]
    assert {"warning"} == {event["level"] for event in traced if event["status"] == 503}
    assert "closed" in {event["overload_level"] for event in traced}
    refused = [json.loads(body) for status, _, body in caller.answers if status == 503]
    assert TRACE in {told["trace_id"] for told in refused}
