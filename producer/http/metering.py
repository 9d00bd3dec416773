"""What the API counts of its calls, and what it knows of itself from moment to moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import Final

from config import meters
from config.catalogue import metric
from producer.http.api import Api

INTERVAL_S: Final = 1.0  # between looks at oneself; a scrape may be answered by a sibling

_LABELS: Final = metric("tidegate_http_requests_total").labels
_REQUESTS = {
    (route, status): meters.counter("tidegate_http_requests_total", route=route, status=status)
    for route in _LABELS["route"]
    for status in _LABELS["status"]
}
_DURATIONS = meters.histograms("tidegate_http_request_duration_seconds")
_CONNECTIONS = meters.gauge("tidegate_http_connections")
_LISTENERS = meters.gauge("tidegate_event_streams", stream="status")
_WAITING = meters.gauge("tidegate_intake_waiting")
_HEARD = meters.gauge("tidegate_outcomes_heard")

# Apart from the rest of their class: the caller's own limit, and ours.
_OWN_CLASS: Final = {429: "429", 503: "503"}


def count_call(route: str, status: int, seconds: float | None = None) -> None:
    """Count an answered call. `route` is the template, '' for a path that is none.

    `seconds` is how long it took; None for what is not to be judged by it: a stream, or a call that
    waited because it was asked to.
    """
    route = route or "other"
    _REQUESTS[route, _OWN_CLASS.get(status) or f"{status // 100}xx"].inc()
    if seconds is not None:
        _DURATIONS[route].observe(seconds)


def count_gone(route: str) -> None:
    """Count a call whose caller left before it was answered."""
    _REQUESTS[route or "other", "gone"].inc()


async def keep_gauges(api: Api, connections: Callable[[], Sized]) -> None:
    """Say from time to time how things stand in this process; until cancelled."""
    while True:
        _CONNECTIONS.set(len(connections()))
        _LISTENERS.set(api.board.count)
        _WAITING.set(api.intake.pending)
        _HEARD.set(api.waiters.listening)
        await asyncio.sleep(INTERVAL_S)
