"""Handing spans over: who tells never waits, and what is lost is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from config.tracing import Context, Span, Tracing, begin, checks, open_tracer, wall_ns
from config.tracing import tracer as tracer_module
from config.tracing.sdk import SdkExports
from config.tracing.tracer import EXPORT_MAX, Tracer
from workers.contract.trace import parent_of


def span(number: int = 1) -> Span:
    return Span(
        name=f"span {number}",
        kind="internal",
        context=Context(1, number),
        parent=None,
        began_ns=number,
        ended_ns=number + 1,
        attributes={},
    )


class Collector:
    """Takes spans; may be made to fail, or to hang until it is interrupted."""

    def __init__(self) -> None:
        self.taken: list[Span] = []
        self.sizes: list[int] = []
        self.fails: bool | Exception = False
        self.hangs = False
        self.asked = threading.Event()
        self.interrupted = threading.Event()

    def export(self, spans: Sequence[Span]) -> bool:
        self.asked.set()
        if self.hangs:
            self.interrupted.wait(30)
            return False
        if isinstance(self.fails, Exception):
            raise self.fails
        if not self.fails:
            self.taken += spans
            self.sizes.append(len(spans))
        return not self.fails

    def interrupt(self) -> None:
        self.interrupted.set()


class Count:
    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Count]:
    made = {fate: Count() for fate in ("exported", "failed", "dropped")}
    monkeypatch.setattr(tracer_module, "_SPANS", made)
    return made


@pytest.fixture
def collector() -> Collector:
    return Collector()


def comes_true(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not holds() and time.monotonic() < until:
        time.sleep(0.002)
    return holds()


def fates(counted: dict[str, Count]) -> dict[str, int]:
    return {fate: count.value for fate, count in counted.items() if count.value}


def test_what_is_told_is_handed_over_soon_and_in_order(
    collector: Collector, counted: dict[str, Count]
) -> None:
    """Nobody has to ask for it."""
    tracer = Tracer(collector, interval_s=0.01)
    tracer.tell([span(1), span(2)])
    tracer.tell([span(3)])
    assert comes_true(lambda: fates(counted) == {"exported": 3})
    assert collector.taken == [span(1), span(2), span(3)]
    tracer.close(5)


def test_a_clean_stop_hands_over_what_waits(
    collector: Collector, counted: dict[str, Count]
) -> None:
    """Long before it was due, in pieces that a collector takes."""
    tracer = Tracer(collector, interval_s=3_600)
    tracer.tell([span(number) for number in range(EXPORT_MAX - 1)])
    assert collector.taken == []
    tracer.tell([span(EXPORT_MAX), span(EXPORT_MAX + 1)])
    tracer.close(5)
    assert max(collector.sizes) <= EXPORT_MAX
    assert fates(counted) == {"exported": EXPORT_MAX + 1}


def test_a_collector_that_hangs_costs_spans_and_no_time(
    collector: Collector, counted: dict[str, Count]
) -> None:
    """What is beyond the queue is dropped, and counted; the stop cuts the collector short."""
    collector.hangs = True
    tracer = Tracer(collector, queue_max=5, interval_s=0.01)
    tracer.tell([span(0)])
    assert collector.asked.wait(10)
    begun = time.monotonic()
    for number in range(1, 101):
        tracer.tell([span(number)])
    assert time.monotonic() - begun < 5
    assert fates(counted) == {"dropped": 95}
    tracer.close(0.05)
    assert collector.interrupted.is_set()
    assert fates(counted) == {"dropped": 100, "failed": 1}
    tracer.tell([span(101)])
    assert counted["dropped"].value == 101


@pytest.mark.parametrize("fails", [True, ConnectionError("away")])
def test_what_a_collector_refuses_is_counted_and_the_next_is_tried(
    collector: Collector, counted: dict[str, Count], fails: bool | Exception
) -> None:
    """The thread outlives any error."""
    collector.fails = fails
    tracer = Tracer(collector, interval_s=0.01)
    tracer.tell([span(1)])
    assert comes_true(lambda: fates(counted) == {"failed": 1})
    collector.fails = False
    tracer.tell([span(2)])
    assert comes_true(lambda: collector.taken == [span(2)])
    tracer.close(5)


def test_a_span_keeps_the_ids_that_others_were_told() -> None:
    """They were handed on while it was not over yet; a parent's place need not be known here."""
    exporter = InMemorySpanExporter()
    root, child = Context(7, 8), Context(7, 9)
    exports = SdkExports("test", [exporter])
    one = span()
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    assert exports.export(
        [
            Span(**{**fields, "context": root}),
            Span(**{**fields, "context": child, "parent": root, "fault": "X", "links": [root]}),
        ]
    )
    first, second = exporter.get_finished_spans()
    assert first.context is not None
    assert second.context is not None
    assert (first.context.trace_id, first.context.span_id, first.parent) == (7, 8, None)
    assert (second.context.trace_id, second.context.span_id) == (7, 9)
    assert second.parent is not None
    assert second.parent.span_id == 8
    assert second.links[0].context.span_id == 8
    assert second.context.trace_flags.sampled
    assert second.resource.attributes["service.name"] == "tidegate-test"
    assert (second.start_time, second.end_time) == (1, 2)


def test_a_place_is_written_as_others_read_it() -> None:
    """W3C Trace Context; a child is another place in the same trace."""
    place = begin(0x4BF92F3577B34DA6A3CE929D0E0E4736)
    read = parent_of(place.traceparent().encode())
    assert read is not None
    assert (read.context, read.sampled) == (place, True)
    assert place.child().trace == place.trace
    assert place.child() != place


def test_moments_keep_their_order_and_distance_by_the_wall_clock() -> None:
    """They are read by one clock, and told by another."""
    now = time.perf_counter()
    told = wall_ns([now - 1, now - 1, now])
    assert told[0] == told[1]
    assert told[2] - told[1] == pytest.approx(1e9, abs=1_000)
    assert told[2] == pytest.approx(time.time_ns(), abs=60e9)


def test_settings_say_what_they_lack() -> None:
    """Before anything is served."""
    assert open_tracer(Tracing(), "test") is None
    assert all(fine for fine, _ in checks(Tracing(endpoint="http://c:4318")))
    wrong = [fault for fine, fault in checks(Tracing(endpoint="collector:4318")) if not fine]
    assert wrong == [
        "tracing.endpoint: must begin with http:// or https://, such as http://collector:4318"
    ]


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, nobody asks for it."""

    def find_spec(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("config.tracing.find_spec", find_spec)
    assert all(fine for fine, _ in checks(Tracing()))
    (fault,) = [fault for fine, fault in checks(Tracing(file="spans.jsonl")) if not fine]
    assert "install tidegate[otel]" in fault
