"""Watching: every source in a thread of its own, and none that can hold up another."""

from __future__ import annotations

import threading

import pytest
from top_world import KEY, source, status, worker

from deploy.top.reading import Seen
from deploy.top.sources import STATUS, Source, SourceError, address, of_api
from deploy.top.watching import Watch

SOON_S = 30.0  # bound of waits that end as soon as what they wait for is there


def state(watch: Watch, name: str) -> Seen:
    return next(one for one in watch.seen() if one.source.name == name)


def test_every_source_is_read_again_and_again() -> None:
    """What one says is kept with the time it said it."""
    bodies = {STATUS: status(), "worker-1": worker(1)}
    with Watch([source(name) for name in bodies], 0.01, lambda one: bodies[one.name]) as watch:
        watch.wait_for(lambda one: len(one.readings) > 2, SOON_S)
        heard = watch.seen()
    assert all(len(one.readings) > 2 for one in heard)
    assert heard[0].readings[-1].status is not None
    assert heard[1].readings[-1].series


def test_a_source_that_hangs_delays_no_other_and_no_end() -> None:
    """A look-up of a name may take for ever."""
    hang = threading.Event()

    def call(one: Source) -> bytes:
        if one.name == "hangs":
            hang.wait()
        return worker(1)

    with Watch([source("hangs"), source("worker-1")], 0.01, call) as watch:
        watch.wait_for(lambda one: one.source.name == "hangs" or len(one.readings) > 2, SOON_S)
        assert len(state(watch, "worker-1").readings) > 2
        assert not state(watch, "hangs").readings
    hang.set()


def test_whatever_a_source_does_it_is_asked_again() -> None:
    """It is away with its reason, and comes back."""
    answers = iter([SourceError("Connection refused"), ZeroDivisionError("a bug"), b"\xff"])
    errors: list[str] = []
    watch: Watch

    def call(one: Source) -> bytes:
        errors.append(state(watch, one.name).error)
        answer = next(answers, worker(1))
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Watch([source("worker-1")], 0.01, call) as watch:
        watch.wait_for(lambda one: bool(one.readings), SOON_S)
        assert state(watch, "worker-1").error == ""
    assert errors[1:3] == ["Connection refused", "ZeroDivisionError: a bug"]
    assert errors[3].startswith("no metrics")


def test_an_interval_may_be_changed_while_one_is_waited_for() -> None:
    """From an hour to a moment."""
    with Watch([source("worker-1")], 3_600, lambda _: worker(1)) as watch:
        watch.wait_for(lambda one: bool(one.readings), SOON_S)
        watch.interval_s = 0.01
        watch.wait_for(lambda one: len(one.readings) > 1, SOON_S)
        assert len(state(watch, "worker-1").readings) > 1


def test_a_window_holds_two_readings_at_any_interval() -> None:
    """Or there would be no rate."""
    for interval_s in (0.2, 1.0, 5.0, 30.0):
        watch = Watch([], interval_s)
        assert watch.window_s > interval_s
        assert watch.stale_s > watch.interval_s


def test_a_deployment_is_its_api_and_the_metrics_that_are_named() -> None:
    """Each address is asked once; the status only with a key."""
    named = [("api", "http://h:8080/metrics"), ("governor", "http://h:9101/metrics")]
    assert of_api("http://h:8080/", KEY, named) == [
        Source(name=STATUS, url="http://h:8080/v1/status", key=KEY),
        Source(name="api", url="http://h:8080/metrics"),
        Source(name="governor", url="http://h:9101/metrics"),
    ]
    own = [("api", "http://h:9100/metrics")]
    assert of_api("h:8080", "", own) == [Source(name="api", url="http://h:9100/metrics")]
    assert of_api("h:8080", "", [("h:1", "h:1/metrics"), ("again", "http://h:1/metrics")]) == [
        Source(name="api", url="http://h:8080/metrics"),
        Source(name="h:1", url="http://h:1/metrics"),
    ]


def test_an_address_names_a_source_and_never_its_password() -> None:
    """What is shown on a screen may be seen by others."""
    assert address("https://me:secret@metrics.example:9100/metrics") == "metrics.example:9100"
    for wrong in ("ftp://h/metrics", "http://", "http://h:99999/", "http://h:x/"):
        with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
            address(wrong)
