"""What the API counts of its calls, and what it knows of itself from moment to moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
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
_OWN_CLASS: Final = {0: "gone", 429: "429", 503: "503"}


# What answered calls took since the last look, in seconds, by route and status: a thousand of them cost
# the meters a lock once. Only the event loop touches it: a scraper that is answered by a thread sees it
# a second later.
_calls: defaultdict[tuple[str, int], list[float | None]] = defaultdict(list)


def count_call(route: str, status: int, seconds: float | None = None) -> None:
    """Count an answered call, on the event loop. `route` is the template, '' for a path that is none.

    `seconds` is how long it took; None for what is not to be judged by it: a stream, or a call that
    waited because it was asked to. Status 0: the caller left before.
    """
    _calls[route, status].append(seconds)


def settle() -> None:
    """Hand what was counted to the meters; on the event loop."""
    for (route, status), took_s in _calls.items():
        _REQUESTS[route or "other", _class_of(status)].inc(len(took_s))
        judged = [seconds for seconds in took_s if seconds is not None]
        if judged:
            _DURATIONS[route or "other"].observe_many(judged)
    _calls.clear()


def _class_of(status: int) -> str:
    return _OWN_CLASS.get(status) or f"{status // 100}xx"


async def keep_gauges(api: Api, connections: Callable[[], Sized]) -> None:
    """Say from time to time how things stand in this process; until cancelled."""
    while True:
        settle()
        _CONNECTIONS.set(len(connections()))
        _LISTENERS.set(api.board.count)
        _WAITING.set(api.intake.pending)
        _HEARD.set(api.waiters.listening)
        await asyncio.sleep(INTERVAL_S)
