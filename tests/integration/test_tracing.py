"""Spans of real processes: one trace from a gateway's call to the commit, in the files they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_kit import ORDER, add_gateway, key_of, settings_for
from kit import World, comes_true
from msgspec import Struct
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from config.settings import Settings, Tracing, to_environ
from config.tracing import Span, begin, open_tracer
from tests.factories import GATEWAY

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER = "0af7651916cd43dd8448eb211c80319c"
SERVER, PRODUCER, CONSUMER = 2, 4, 5  # OTLP's numbers


class Told(Struct):
    """A span as a file holds it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: int
    ended: int
    links: list[str]
    attributes: dict[str, str]


@contextmanager
def process(name: str, settings: Settings, folder: Path) -> Iterator[Path]:
    """Run a process as operators do, until the end of the block; yields its log."""
    log = folder / f"{name}.log"
    with log.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", name],
            env={**os.environ, **to_environ(settings)},
            stdout=out,
            stderr=out,
        )
    try:
        yield log
        running.terminate()
        assert running.wait(60) == 0, log.read_text()
    finally:
        running.kill()
        running.wait()


def port_in(log: Path) -> int:
    """Wait until the API says where it listens."""
    found: list[int] = []

    def listening() -> bool:
        events = [json.loads(line) for line in log.read_text().splitlines()]
        found.extend(event["port"] for event in events if event["event"] == "listening")
        return bool(found)

    assert comes_true(listening, 60), log.read_text()
    return found[0]


def post(port: int, traceparent: str, key: str, **headers: str) -> httpx.Response:
    """Post an order; asks again while the API starts."""
    fields = {
        "authorization": f"Bearer {key_of(GATEWAY)}",
        "idempotency-key": key,
        "traceparent": traceparent,
        **headers,
    }
    with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=60) as client:
        return client.post(f"http://127.0.0.1:{port}/v1/intents", json=ORDER, headers=fields)


def spans_in(file: Path) -> list[Told]:
    """Read what a process has told, by time."""
    lines = file.read_text().splitlines() if file.exists() else []
    told = [
        _told(_attributes(part["resource"])["service.name"], span)
        for line in lines
        for part in json.loads(line)["resourceSpans"]
        for scope in part["scopeSpans"]
        for span in scope["spans"]
    ]
    return sorted(told, key=lambda one: one.began)


def _told(service: str, span: Any) -> Told:
    return Told(
        service=service,
        name=span["name"],
        trace=span["traceId"],
        id=span["spanId"],
        parent=span.get("parentSpanId", ""),
        kind=span["kind"],
        began=int(span["startTimeUnixNano"]),
        ended=int(span["endTimeUnixNano"]),
        links=[link["spanId"] for link in span.get("links", [])],
        attributes=_attributes(span),
    )


def _attributes(of: Any) -> dict[str, str]:
    return {one["key"]: str(*one["value"].values()) for one in of.get("attributes", [])}


def settings(world: World, folder: Path, name: str, **more: Any) -> Settings:
    """Settings of a process that tells its spans to a file of its own."""
    api = more.pop("api", {})
    made = settings_for(world.dsn, world.valkey_url, **api)
    tracing = Tracing(file=str(folder / f"{name}.spans"), sample_share=0)
    return replace(made, tracing=tracing, **more)


def test_an_intent_can_be_followed_from_its_gateway_to_its_commit(
    world: World, tmp_path: Path
) -> None:
    """Over two processes that share nothing but the journal; both forked before they told anything."""
    add_gateway(world.dsn)
    api = settings(world, tmp_path, "api", api={"processes": 2})
    with (
        process("api", api, tmp_path) as log,
        # Told to stop as soon as the last outcome is out: what it has to tell is told all the same.
        process("worker", settings(world, tmp_path, "worker"), tmp_path),
    ):
        port = port_in(log)
        reply = post(port, f"00-{TRACE}-{PARENT}-01", "k-1", prefer="wait=30")
        other = post(port, f"00-{OTHER}-{PARENT}-00", "k-2", prefer="wait=30")
    assert (reply.json()["status"], other.json()["status"]) == ("committed", "committed")

    in_api, in_worker = spans_in(tmp_path / "api.spans"), spans_in(tmp_path / "worker.spans")
    assert {span.trace for span in in_api + in_worker} == {TRACE}, "the other was not sampled"
    assert {span.service for span in in_api} == {"tidegate-api"}
    assert {span.service for span in in_worker} == {"tidegate-worker"}
    call, batch, send = in_api
    done, commit = in_worker
    assert [span.name for span in in_api] == ["POST /v1/intents", "intake batch", "send orders"]
    assert [span.name for span in in_worker] == ["process orders", "commit outcome"]
    assert (call.kind, send.kind, done.kind) == (SERVER, PRODUCER, CONSUMER)
    assert call.parent == PARENT
    assert {batch.parent, send.parent, done.parent} == {call.id}
    assert commit.parent == done.id
    assert done.links == [send.id]
    assert commit.attributes["tidegate.intent.outcome"] == "committed"
    intent_id = reply.json()["intent_id"]
    assert {span.attributes["tidegate.intent.id"] for span in in_api + in_worker} == {intent_id}
    # One machine, one clock: the call waited for the commit, and the worker for the journal.
    assert call.began <= batch.began <= done.began <= commit.ended <= done.ended
    assert commit.ended <= call.ended


def test_a_worker_that_dies_leaves_a_gap_and_the_next_one_goes_on_in_the_trace(
    world: World, tmp_path: Path
) -> None:
    """Its spans die with it, as does the hint; the intent brings its place to whoever claims it."""
    add_gateway(world.dsn)
    died = tmp_path / "died"
    deadly = {
        "failpoints": f"worker.before_commit=kill,once:{died}",
        "failpoints_enabled": True,
    }
    with (
        process("worker", settings(world, tmp_path, "worker", **deadly), tmp_path),
        process("api", settings(world, tmp_path, "api"), tmp_path) as log,
    ):
        port = port_in(log)
        assert post(port, f"00-{TRACE}-{PARENT}-01", "k-1").status_code == 202
        assert comes_true(died.exists, 60)
        woken_ns = time.time_ns()
        assert post(port, f"00-{OTHER}-{PARENT}-01", "k-2", prefer="wait=30").status_code == 200
        assert comes_true(lambda: world.open_count() == 0, 60)

    in_api, in_worker = spans_in(tmp_path / "api.spans"), spans_in(tmp_path / "worker.spans")
    sent = {span.trace: span for span in in_api if span.name == "send orders"}
    calls = {span.trace: span for span in in_api if span.name == "POST /v1/intents"}
    committed = [span for span in in_worker if span.name == "commit outcome"]
    assert sorted(span.trace for span in committed) == sorted([TRACE, OTHER])
    (late,) = [span for span in in_worker if span.trace == TRACE and span.kind == CONSUMER]
    assert late.parent == calls[TRACE].id
    assert late.began >= woken_ns
    assert sent[OTHER].id in late.links, "another's hint woke the worker"
    assert sent[TRACE].id not in late.links, "its own was lost with the child"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector that takes OTLP over HTTP; yields its address and what it was sent."""
    taken: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_port}", taken


def span() -> Span:
    return Span(
        name="a span",
        kind="internal",
        context=begin(7),
        parent=None,
        began_ns=1,
        ended_ns=2,
        attributes={"a": "b"},
    )


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_spans_reach_a_collector(
    collector: tuple[str, list[ExportTraceServiceRequest]], path: str
) -> None:
    """OTLP over HTTP, with the address as the collector or as OpenTelemetry writes it."""
    address, taken = collector
    tracer = open_tracer(Tracing(endpoint=address + path), "api")
    assert tracer is not None
    tracer.tell([span()])
    tracer.close(10)
    (request,) = taken
    (sent,) = request.resource_spans[0].scope_spans[0].spans
    assert (sent.name, int.from_bytes(sent.trace_id, "big")) == ("a span", 7)


def test_a_collector_that_is_away_holds_up_no_stop() -> None:
    """What it did not take is lost, and the process ends."""
    tracer = open_tracer(Tracing(endpoint="http://127.0.0.1:1"), "api")
    assert tracer is not None
    begun = time.monotonic()
    for _ in range(1_000):
        tracer.tell([span()])
    tracer.close(0.5)
    assert time.monotonic() - begun < 5
