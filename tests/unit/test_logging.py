"""Log lines: one per event, whoever wrote it, and no secret in any.

Run in a process of its own: logging is configured once per process and for good.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PRELUDE = """
import logging
import structlog
from config.logging import configure
configure("api", "info", "{fmt}")
log = structlog.get_logger()
"""


def written(code: str, fmt: str = "json") -> str:
    """Run code after configuring; return what it wrote to standard error."""
    ran = subprocess.run(
        [sys.executable, "-c", PRELUDE.format(fmt=fmt) + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout == ""
    return ran.stderr


def events(code: str) -> list[dict[str, Any]]:
    """Return the events that code logs."""
    return [json.loads(line) for line in written(code).splitlines()]


def test_an_event_is_one_json_line_with_time_process_and_level() -> None:
    """What a collector needs, and nothing it must parse."""
    (event,) = events("log.info('batch committed', intents=3)")
    assert event.pop("at").endswith("Z")
    assert event == {
        "process": "api",
        "event": "batch committed",
        "level": "info",
        "intents": 3,
    }


def test_libraries_write_into_the_same_lines() -> None:
    """Celery's and uvicorn's records are events like ours."""
    code = "logging.getLogger('celery.worker').warning('lost %s', 'it')"
    (event,) = events(code)
    assert (event["event"], event["logger"], event["level"]) == (
        "lost it",
        "celery.worker",
        "warning",
    )


def test_a_traceback_stays_on_its_line() -> None:
    """A line feed inside an event would make two of it."""
    (event,) = events("try: 1 / 0\nexcept ZeroDivisionError: log.exception('bad')")
    assert "ZeroDivisionError" in event["exception"]


def test_below_the_level_nothing_is_written() -> None:
    """Neither ours nor a library's."""
    assert events("log.debug('x'); logging.getLogger('kombu').debug('y')") == []


def test_secrets_are_masked_by_their_key_at_any_depth() -> None:
    """Whoever logs a whole structure leaks nothing."""
    code = (
        "log.info('x', password='p1', db_dsn='p2', coupon_code='p3', "
        "headers={'Authorization': 'p4', 'list': [{'api_key': 'p5'}]}, token='p6')"
    )
    text = written(code)
    assert [number for number in range(1, 7) if f"p{number}" in text] == []


def test_passwords_of_urls_and_keys_of_gateways_are_masked_in_texts() -> None:
    """Drivers put the URL into their errors."""
    text = written("log.info('cannot reach redis://:hunter2@h/0', key='is tg_abcdefghijkl')")
    assert "hunter2" not in text
    assert "abcdefghijkl" not in text


def test_what_json_cannot_hold_is_still_written() -> None:
    """A log line never breaks its caller."""
    (event,) = events("log.info('\\ud800', thing=object)")
    assert event["level"] == "info"


def test_text_is_for_people() -> None:
    """The same event, in a terminal."""
    assert "batch committed" in written("log.info('batch committed')", fmt="text")
