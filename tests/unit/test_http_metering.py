"""What the event loop counts of its calls reaches the meters when the loop hands it over, and whole."""

from __future__ import annotations

from config import meters
from config.exposition import Exposition
from producer.http import metering

REQUESTS = "tidegate_http_requests_total"
ROUTE = "/v1/intents"


def shown() -> float:
    return meters.readings(REQUESTS)[ROUTE, "2xx"]


def test_calls_are_counted_when_the_loop_hands_them_over() -> None:
    """Each once, whether or not it is judged by its time."""
    metering.settle()
    before = shown()
    metering.count_call(ROUTE, 202, 0.01)
    metering.count_call(ROUTE, 202)
    assert shown() == before
    metering.settle()
    metering.settle()
    assert shown() == before + 2


def test_a_scrape_leaves_the_loops_books_alone() -> None:
    """A thread answers it, in the midst of whatever the loop does."""
    metering.settle()
    before = shown()
    metering.count_call(ROUTE, 202, 0.01)
    text = Exposition("api").text().decode()
    assert f'{REQUESTS}{{route="{ROUTE}",status="2xx"}} {before}' in text
    metering.settle()
    assert shown() == before + 1
