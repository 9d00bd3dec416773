"""Log lines: one per event, whoever wrote it, JSON whatever is in it, and no storm of any.

Run in a process of its own: logging is configured once per process and for good.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

PRELUDE = """
import logging, os, threading
import structlog
from config.logging import configure
configure("api", "{level}", "{fmt}", to="{to}", pepper="a secret")
log = structlog.get_logger()
"""


def ran(code: str, *, level: str = "info", fmt: str = "json", to: str = "stdout") -> Any:
    """Run code after configuring."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE.format(level=level, fmt=fmt, to=to) + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def written(code: str, **configured: str) -> str:
    """Return what a process writes to standard output."""
    done = ran(code, **configured)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def events(code: str, **configured: str) -> list[dict[str, Any]]:
    """Return the events that code logs."""
    return [json.loads(line) for line in written(code, **configured).splitlines()]


def test_an_event_is_one_json_line_with_time_process_and_level() -> None:
    """What a collector needs, and nothing it must parse."""
    (event,) = events("log.info('batch committed', intents=3)")
    assert event.pop("at").endswith("Z")
    assert event.pop("pid") > 0
    assert event == {
        "process": "api",
        "event": "batch committed",
        "level": "info",
        "intents": 3,
    }


def test_commands_write_their_lines_beside_their_result() -> None:
    """Standard output is what a script reads."""
    done = ran("print('the result'); log.info('x')", to="stderr")
    assert done.stdout == "the result\n"
    assert json.loads(done.stderr)["event"] == "x"


def test_libraries_write_into_the_same_lines() -> None:
    """Celery's and uvicorn's records are events like ours, warnings of Python's too."""
    told = events(
        "logging.getLogger('celery.worker').warning('lost %d', 3)\n"
        "logging.getLogger('uvicorn.error').warning('Invalid HTTP request received.')\n"
        "import warnings; warnings.warn('this is old')"
    )
    assert [(event["event"], event["logger"], event["level"]) for event in told[:2]] == [
        ("lost 3", "celery.worker", "warning"),
        ("Invalid HTTP request received.", "uvicorn.error", "warning"),
    ]
    assert "this is old" in told[2]["event"]


@pytest.mark.parametrize(
    "record",
    [
        "logging.getLogger('celery').error('Received unregistered task of type %s.\\n%s', c, {c: c})",
        "logging.getLogger('celery').error('Task %(name)s raised %(exc)r', {'name': c, 'exc': c})",
        "logging.getLogger('celery').error('%s', KeyError(c), exc_info=KeyError(c))",
        "logging.getLogger('celery').error('expected %d', c)",
        "logging.getLogger('kombu').critical('UNABLE TO RESTORE 1 MESSAGES: ' + repr([c]))",
        "logging.getLogger('asyncio').error('Exception in callback f(' + c + ')\\nhandle: ' + c)",
        "logging.getLogger('any').error('got ' + repr(c))",
        "logging.getLogger('any').error(KeyError(c))",
        "logging.getLogger('any').error([c])",
        "import warnings; warnings.warn(RuntimeWarning('Exception raised outside body: ' + repr(c)))",
    ],
)
def test_a_library_says_what_happened_and_not_to_what(record: str) -> None:
    """Celery writes whole messages of the broker into its errors."""
    (event,) = events(f"c = chr(99) + 'anary-3f1c'\n{record}")
    assert "canary" not in json.dumps(event)
    assert event["level"] in ("warning", "error", "critical")
    assert event["event"] != "record not told"


def test_a_library_that_loses_its_connection_says_which() -> None:
    """That address is ours."""
    code = (
        "logging.getLogger('celery').error('consumer: Cannot connect to %s: %s.\\n%s\\n',"
        " 'redis://:pass@valkey:6379//', ConnectionRefusedError(111, 'refused'), 'again')"
    )
    (event,) = events(code)
    assert event["event"] == (
        "consumer: Cannot connect to redis://:***@valkey:6379//: "
        "ConnectionRefusedError: [Errno 111] refused."
    )


def test_a_traceback_stays_on_its_line() -> None:
    """A line feed inside an event would make two of it."""
    (event,) = events("try: 1 / 0\nexcept ZeroDivisionError: log.exception('bad')")
    assert "ZeroDivisionError: division by zero" in event["exception"]


def test_what_nobody_caught_is_an_event_too() -> None:
    """In a thread, and at the end of the process; without what it quotes."""
    code = (
        "def fails(): int('canary-' + str(7))\n"
        "thread = threading.Thread(target=fails); thread.start(); thread.join()\n"
        "fails()"
    )
    done = ran(code)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["event"], event["level"]) for event in told] == [
        ("thread ends", "error"),
        ("process ends", "critical"),
    ]
    assert all("ValueError" in event["exception"] for event in told)
    assert "canary-7" not in done.stdout + done.stderr
    assert done.returncode == 1


def test_below_the_level_nothing_is_written_and_libraries_are_a_level_quieter() -> None:
    """Their `info` is our `debug`."""
    code = "log.debug('x'); logging.getLogger('celery').info('y')"
    assert events(code) == []
    assert [event["event"] for event in events(code, level="debug")] == ["x", "y"]
    assert events("log.warning('x')", level="error") == []


def test_what_json_cannot_hold_is_still_written() -> None:
    """A log line never breaks its caller."""
    (event,) = events("log.info('\\ud800', thing=object, more=float('nan'), big=2**80)")
    assert event["level"] == "info"


def test_a_line_that_is_too_long_loses_its_longest_value_and_stays_json() -> None:
    """A pipe takes up to 4,096 bytes in one piece, so that no two processes' lines mix."""
    code = (
        "log.info('x', **{f'field_{n}': '\u00e9' * 490 for n in range(9)}, ids=[10**9] * 30)\n"
        "log.info('y', exception='f\\n' * 9_000 + 'the last')"
    )
    lines = written(code).encode().splitlines(keepends=True)
    assert all(len(line) <= 4_096 for line in lines)
    first, second = (json.loads(line) for line in lines)
    assert (first["event"], first["cut"]) == ("x", True)
    assert second["exception"].endswith("the last")


def test_lines_of_processes_that_share_a_pipe_do_not_mix() -> None:
    """The API's processes and a worker's children share their parent's."""
    code = (
        "for child in range(4):\n"
        "    if os.fork() == 0:\n"
        "        for n in range(500): log.info('x' * 300, wide=True, child=child, n=n)\n"
        "        os._exit(0)\n"
        "for child in range(4): os.wait()"
    )
    told = events(code)
    assert {(event["child"], event["n"]) for event in told} == {
        (child, n) for child in range(4) for n in range(500)
    }


def test_the_same_again_and_again_is_told_a_few_times_and_then_counted() -> None:
    """A dependency that is away must not write the log full; what is another thing is told."""
    code = (
        "for n in range(1_000): log.warning('gate unreachable', intents=n)\n"
        "for name in ('a', 'b'): log.warning('does not answer', dependency=name)"
    )
    told = events(code)
    assert [event["event"] for event in told] == (
        ["gate unreachable"] * 10 + ["does not answer"] * 2 + ["repeated"]
    )
    assert (told[-1]["of"], told[-1]["left_out"]) == ("gate unreachable", 990)
    assert told[-1]["level"] == "warning"


def test_wide_events_are_never_counted_away() -> None:
    """Who writes them has chosen already."""
    assert len(events("for n in range(100): log.info('batch', wide=True)")) == 100


def test_a_fork_begins_to_count_anew() -> None:
    """What the parent left out is the parent's to tell."""
    code = (
        "from config.logging import flush\n"
        "for n in range(15): log.info('x')\n"
        "if os.fork() == 0:\n"
        "    log.info('of the child'); flush(); os._exit(0)\n"
        "os.wait()"
    )
    told = events(code)
    assert [event["event"] for event in told] == ["x"] * 10 + ["of the child", "repeated"]
    assert told[-1]["left_out"] == 5


def test_text_is_for_people_and_no_value_begins_a_line_of_it() -> None:
    """The same event, in a terminal; a value cannot paint it either."""
    code = "log.info('batch committed', why='\\n{\"level\":\"error\"}\\x1b[31m')"
    lines = written(code, fmt="text").splitlines()
    assert len(lines) == 1
    assert "batch committed" in lines[0]
    assert "\x1b" not in lines[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_are_pretty_on_a_terminal_and_json_anywhere_else(terminal: bool) -> None:
    """Unless somebody says how."""
    reads, writes = pty.openpty() if terminal else os.pipe()
    code = PRELUDE.format(level="info", fmt="auto", to="stdout") + "log.info('hello')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=writes) as process:
        process.wait(30)
    os.close(writes)
    line = os.read(reads, 4_096)
    os.close(reads)
    assert line.startswith(b"{") is not terminal
    assert b"hello" in line


def test_a_reader_that_went_away_breaks_nobody() -> None:
    """The collector may die before us."""
    reads, writes = os.pipe()
    os.close(reads)
    code = PRELUDE.format(level="info", fmt="json", to="stdout") + "log.info('hello')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=writes) as process:
        assert process.wait(30) == 0
    os.close(writes)
