"""What a process shows is what prometheus_client would write of the same series."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from config import meters
from config.exposition import Exposition
from producer import metering  # noqa: F401 - an API's series
from producer.http import metering as http_metering
from workers.runtime import metering as worker_metering  # noqa: F401 - a worker's


class _Parsed(Collector):
    """The families that a reader finds in a text."""

    def __init__(self, text: bytes) -> None:
        self.families = list(text_string_to_metric_families(text.decode()))

    def collect(self) -> Iterator[Family]:
        yield from self.families


def written_by_prometheus_client(parsed: _Parsed) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(parsed)
    return generate_latest(registry)


def ours(text: bytes) -> bytes:
    """The text without what prometheus_client itself wrote of the process."""
    return text[: text.index(b"# HELP process_")]


def test_the_text_is_what_prometheus_client_would_write() -> None:
    """To the byte: heads, labels, buckets, numbers great and small."""
    http_metering.count_call("/v1/intents", 202, 0.012)
    http_metering.settle()
    meters.gauge("tidegate_service_per_second").set(1.5e-7)
    meters.counter("tidegate_batches_total").inc(123_456_789)
    text = ours(Exposition("api", "worker", "governor").text())
    parsed = _Parsed(text)
    assert len(parsed.families) > 25
    assert sum(len(family.samples) for family in parsed.families) > 500
    assert written_by_prometheus_client(parsed).decode() == text.decode()


def test_a_name_that_an_operator_gave_is_quoted() -> None:
    """It can end no line and no quotes."""
    name = 'worker "one"\n\\o/'
    meters.gauge("celery_worker_tasks_active", hostname=name).set(3)
    text = ours(Exposition("worker").text())
    samples = {
        sample.labels["hostname"]: sample.value
        for family in _Parsed(text).families
        for sample in family.samples
        if sample.name == "celery_worker_tasks_active"
    }
    assert samples[name] == 3


def test_a_series_that_is_asked_for_later_is_shown_from_then_on() -> None:
    shown = Exposition("redispatcher")
    before = shown.text()
    meters.counter("tidegate_redispatched_total").inc()
    assert b"tidegate_redispatched_total 1.0" not in before
    assert b"tidegate_redispatched_total 1.0" in shown.text()


def test_only_the_sources_that_were_asked_for_are_shown() -> None:
    meters.counter("tidegate_batches_total")
    assert b"tidegate_batches_total " in Exposition("worker").text()
    assert b"tidegate_batches_total " not in Exposition("api").text()
