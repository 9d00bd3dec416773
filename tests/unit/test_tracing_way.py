"""One trace for each followed intent: from its gateway's, over call, batch and hint, to the commit."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from tracing_world import Store, World

from workers.contract.trace import context_of

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
SAMPLED = f"00-{TRACE:032x}-{PARENT:016x}-01"
UNSAMPLED = f"00-{TRACE:032x}-{PARENT:016x}-00"
WAY = ["POST /v1/intents", "intake batch", "send orders", "process orders", "commit outcome"]


def sampled(number: int) -> str:
    """Another gateway's trace."""
    return f"00-{number:032x}-{PARENT:016x}-01"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def through(world: World) -> dict[str, ReadableSpan]:
    """Send what was posted its whole way; return its spans by name."""
    world.take()
    world.publish()
    world.work(world.hints[-1][1])
    return {span.name: span for span in world.spans()}


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def traces(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans if span.context is not None}


def test_an_intent_is_one_trace_from_its_gateways_call_to_its_commit(world: World) -> None:
    """Each span stands under the call's, which stands under the gateway's; the hint is linked."""
    world.post(SAMPLED)
    spans = through(world)
    assert list(spans) == WAY
    assert traces(list(spans.values())) == {TRACE}
    call, batch, send, process, commit = spans.values()
    assert parent_id(call) == PARENT
    assert {parent_id(one) for one in (batch, send, process)} == {span_id(call)}
    assert parent_id(commit) == span_id(process)
    assert links(process) == [span_id(send)]
    kinds = [span.kind.name.lower() for span in spans.values()]
    assert kinds == ["server", "internal", "producer", "consumer", "internal"]


def test_what_vendors_say_of_a_trace_is_said_of_every_span_of_it(world: World) -> None:
    """By `tracestate`, over the journal too: whoever samples by it keeps or drops the trace whole."""
    world.post(SAMPLED, state="ot=th:8,vendor@chat=x y")
    spans = through(world)
    assert list(spans) == WAY
    for span in spans.values():
        assert span.context is not None
        assert dict(span.context.trace_state) == {"ot": "th:8", "vendor@chat": "x y"}, span.name


def test_spans_say_by_opentelemetrys_names_what_they_are(world: World) -> None:
    """So that a backend knows calls and queues as such; nothing of the user is among it."""
    world.post(SAMPLED, user_id="a-user")
    spans = through(world)
    call = dict(spans["POST /v1/intents"].attributes or {})
    intent_id = call.pop("tidegate.intent.id")
    assert call == {
        "http.request.method": "POST",
        "http.route": "/v1/intents",
        "http.response.status_code": 202,
        "tidegate.gateway": "chat",
        "tidegate.intent.answer": "accepted",
        "tidegate.level": "normal",
    }
    messaging = {
        name: dict(spans[name].attributes or {}) for name in ("send orders", "process orders")
    }
    for name, operation in (("send orders", "send"), ("process orders", "process")):
        told = messaging[name]
        assert told["messaging.system"] == "redis"
        assert told["messaging.operation.name"] == told["messaging.operation.type"] == operation
        assert told["messaging.destination.name"] == "tidegate.orders"
        assert told["tidegate.intent.id"] == intent_id
    assert messaging["process orders"]["tidegate.intent.outcome"] == "committed"
    assert "a-user" not in "".join(span.to_json() for span in spans.values())


def test_the_stages_of_a_batch_are_moments_in_its_order(world: World) -> None:
    """Within the span, which begins before the first and ends after the last."""
    world.post(SAMPLED)
    spans = through(world)
    for name, stages in (
        ("intake batch", ["admit", "journal"]),
        ("process orders", ["claim", "record", "gather", "decide", "apply", "announce"]),
    ):
        span = spans[name]
        assert [event.name for event in span.events] == stages
        moments = [span.start_time, *[event.timestamp for event in span.events], span.end_time]
        assert moments == sorted(moments)
    at = {event.name: event.timestamp for event in spans["process orders"].events}
    commit = spans["commit outcome"]
    assert (commit.start_time, commit.end_time) == (at["decide"], at["apply"])


def test_batches_are_shared_and_traces_are_not(world: World) -> None:
    """Each intent has the batches in its own trace, and links to those that were in them too."""
    for number in (1, 2, 3):
        world.post(sampled(number), key=f"k-{number}")
    world.post(None, key="k-4")
    world.take()
    world.publish()
    ((hinted, place),) = world.hints
    world.work(place)
    spans = world.spans()
    assert traces(spans) == {1, 2, 3}
    for name in WAY:
        assert sum(span.name == name for span in spans) == 3
    batches = [span for span in spans if span.name == "intake batch"]
    for batch in batches:
        assert (batch.attributes or {})["tidegate.batch.intents"] == len(hinted) == 4
        assert set(links(batch)) == {span_id(one) for one in batches} - {span_id(batch)}
    processed = [span for span in spans if span.name == "process orders"]
    first = context_of(place)
    assert first is not None
    for one in processed:
        other = {span_id(another) for another in processed} - {span_id(one)}
        assert set(links(one)) == {first.span} | other
    assert len({(one.attributes or {})["tidegate.batch.id"] for one in processed}) == 1


def test_a_lost_hint_costs_the_trace_its_span_and_nothing_else(world: World) -> None:
    """An intent brings its place in the trace with it: any batch that claims it goes on there."""
    world.post(SAMPLED)
    world.take()
    world.work()  # another's hint, or the redispatcher's
    spans = {span.name: span for span in world.spans()}
    assert list(spans) == [name for name in WAY if name != "send orders"]
    assert traces(list(spans.values())) == {TRACE}
    assert links(spans["process orders"]) == []


def test_a_hint_that_the_broker_did_not_take_is_told_as_such(world: World) -> None:
    """The engineer sees why the intent waited."""
    world.broken = True
    world.post(SAMPLED)
    world.take()
    world.publish()
    (send,) = [span for span in world.spans() if span.kind is SpanKind.PRODUCER]
    assert send.status.status_code is StatusCode.ERROR
    assert (send.attributes or {})["error.type"] == "ConnectionError"


def test_every_attempt_is_told_and_only_one_of_them_commits(world: World) -> None:
    """Contention: once more, in the same trace."""
    world.post(SAMPLED)
    world.take()
    world.work(store=Store(world.open, [psycopg.errors.DeadlockDetected("again")]))
    spans = world.spans()
    failed, done = [span for span in spans if span.name == "process orders"]
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "DeadlockDetected"
    assert "tidegate.intent.outcome" not in (failed.attributes or {})
    assert done.status.status_code is StatusCode.UNSET
    (commit,) = [span for span in spans if span.name == "commit outcome"]
    assert parent_id(commit) == span_id(done)


def test_an_attempt_that_the_system_failed_is_told_though_it_is_raised(world: World) -> None:
    """The intent stays open, and its trace says since when, and why."""
    world.post(SAMPLED)
    world.take()
    with pytest.raises(psycopg.OperationalError):
        world.work(store=Store(world.open, [psycopg.OperationalError("gone")]))
    world.work()
    outcomes = [
        (span.attributes or {}).get("tidegate.intent.outcome")
        for span in world.spans()
        if span.name == "process orders"
    ]
    assert outcomes == [None, "committed"]


def test_what_is_not_followed_leaves_nothing_behind(world: World) -> None:
    """Neither a span, nor a place in the journal, nor a header of its hint."""
    world.post(UNSAMPLED)
    world.post(None, key="k-2")
    world.take()
    world.publish()
    assert [intent.body.traceparent for intent in world.open.values()] == [None, None]
    assert [place for _, place in world.hints] == [None]
    world.work()
    assert world.spans() == []
