"""Meters count for a family of processes in shared memory, and show what they know."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config import meters
from config.exposition import Exposition

ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    """Run a program in a process of its own: memory is shared once in a life."""
    head = "import os\nfrom config import meters\nfrom config.exposition import Exposition\n"
    done = subprocess.run(  # noqa: PLW1510 - asserted below, with what it said
        [sys.executable, "-c", head + program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COUNTED = "counted = meters.counter('tidegate_batches_total')\n"
BEAR = """
def bear(place, work):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)
    meters.take(place)
    work()
    os._exit(0)
"""
SHOW = "\nprint(Exposition('worker', 'api').text().decode())"


def value(text: str, series: str) -> float | None:
    """The value of one series in an exposition."""
    lines = [line for line in text.splitlines() if line.startswith(series + " ")]
    return float(lines[0].split()[-1]) if lines else None


def test_what_children_counted_is_one_number() -> None:
    """Each in its place, the parent in its own."""
    text = run(
        COUNTED + BEAR + "meters.share(3)\ncounted.inc(1)\n"
        "for place in range(3): bear(place, lambda: counted.inc(10))" + SHOW
    )
    assert value(text, "tidegate_batches_total") == 31


def test_a_counter_goes_on_where_a_killed_child_left_it() -> None:
    """Whoever is born into a place counts on; a thousand births need no more memory."""
    text = run(
        COUNTED + BEAR + "import signal\nmeters.share(1)\n"
        "def die():\n    counted.inc()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "before = len(meters._memory.cells)\n"
        "for _ in range(100): bear(0, die)\n"
        "assert len(meters._memory.cells) == before" + SHOW
    )
    assert value(text, "tidegate_batches_total") == 100


def test_what_a_dead_child_knew_of_the_moment_is_forgotten() -> None:
    """A gauge is of a living process; the parent's own stays."""
    text = run(
        "waiting = meters.gauge('tidegate_intake_waiting')\n"
        "heard = meters.gauge('tidegate_outcomes_heard')\n"
        + BEAR
        + "heard.set(1)\nmeters.share(1)\nbear(0, lambda: waiting.set(7))\n"
        "bear(0, lambda: None)" + SHOW
    )
    assert value(text, "tidegate_intake_waiting") is None
    assert value(text, "tidegate_outcomes_heard") == 1


def test_gauges_of_several_processes_are_added_or_the_largest_is_shown() -> None:
    """As the catalogue says."""
    text = run(
        "waiting = meters.gauge('tidegate_intake_waiting')\n"
        "heard = meters.gauge('tidegate_outcomes_heard')\n"
        + BEAR
        + "meters.share(2)\ndef work():\n    waiting.set(7)\n    heard.set(1)\n"
        "bear(0, work)\nbear(1, work)" + SHOW
    )
    assert value(text, "tidegate_intake_waiting") == 14
    assert value(text, "tidegate_outcomes_heard") == 1


def test_readings_are_what_the_whole_family_counted() -> None:
    """By labels; a gauge that nobody knows is not among them."""
    text = run(
        COUNTED
        + BEAR
        + "heard = meters.gauge('tidegate_outcomes_heard')\n"
        + "answers = meters.counters('tidegate_intents_answered_total')\nmeters.share(2)\n"
        + "for place in range(2): bear(place, lambda: answers['accepted'].inc(5))\n"
        + "found = meters.readings('tidegate_intents_answered_total')\n"
        + "print(found[('accepted',)], found[('limited',)], meters.readings('tidegate_outcomes_heard'))"
    )
    assert text.split() == ["10.0", "0.0", "{}"]


def test_a_series_that_comes_after_the_fork_is_a_mistake() -> None:
    """It would have no place in the others' memory."""
    with pytest.raises(AssertionError, match="before the memory is shared"):
        run("meters.share(2)\nmeters.counter('tidegate_batches_total')")


def test_a_histogram_counts_into_buckets_that_hold_their_bound() -> None:
    """`le` is less or equal; the last holds all."""
    text = run(
        "sojourn = meters.histogram('tidegate_sojourn_seconds')\n"
        "sojourn.observe(3.0)\nsojourn.observe_many([3.1, 0.001])\nsojourn.observe(99, count=2)"
        + SHOW
    )
    head = "tidegate_sojourn_seconds"
    assert value(text, head + '_bucket{le="3.0"}') == 2
    assert value(text, head + '_bucket{le="5.0"}') == 3
    assert value(text, head + '_bucket{le="+Inf"}') == 5
    assert value(text, head + "_count") == 5
    assert value(text, head + "_sum") == pytest.approx(204.101)


def test_threads_lose_no_count() -> None:
    """An increment is a read and a write."""
    counted = meters.counter("tidegate_batch_contentions_total")
    before = _now("tidegate_batch_contentions_total")
    threads = [
        threading.Thread(target=lambda: [counted.inc() for _ in range(20_000)]) for _ in range(4)
    ]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(switch)
    assert _now("tidegate_batch_contentions_total") == before + 80_000


def _now(series: str) -> float:
    found = value(Exposition("worker").text().decode(), series)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "call",
    [
        lambda: meters.counter("tidegate_no_such_total"),
        lambda: meters.gauge("tidegate_batches_total"),
        lambda: meters.counter("tidegate_intents_answered_total"),
        lambda: meters.counter("tidegate_intents_answered_total", answer="perhaps"),
        lambda: meters.counter("tidegate_batches_total", user="u-1"),
    ],
)
def test_what_is_not_in_the_catalogue_cannot_be_counted(call: object) -> None:
    """A name, a kind, a label or a value."""
    with pytest.raises(KeyError):
        call()  # type: ignore[operator]


def test_an_unknown_number_is_not_shown_as_zero() -> None:
    """A gauge before it is set, and after it was set to None."""
    gauge = meters.gauge("tidegate_admitted_per_second")
    shown = Exposition("governor")
    assert value(shown.text().decode(), "tidegate_admitted_per_second") is None
    gauge.set(12)
    assert value(shown.text().decode(), "tidegate_admitted_per_second") == 12
    gauge.set(None)
    assert value(shown.text().decode(), "tidegate_admitted_per_second") is None
