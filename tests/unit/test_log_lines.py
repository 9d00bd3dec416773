"""Log lines that are written behind their callers: all of them, in order, and in nobody's way."""

from __future__ import annotations

import os
import threading
import time

from config.lines import LinesBehind
from tests.unit.test_logging import events

SOON_S = 30.0


def test_lines_are_written_in_their_order_and_none_is_lost_at_the_end() -> None:
    """Whoever ends a process has its last lines."""
    behind = "from config.logging import write_behind\nwrite_behind()\n"
    told = events(behind + "for n in range(500): log.info('event', n=n, wide=True)")
    assert [event["n"] for event in told] == list(range(500))


def test_a_reader_who_stalls_holds_up_nobody_and_hears_how_much_he_missed() -> None:
    """The pipe is full for as long as he does not read; calls go on."""
    reading, writing = os.pipe()
    told: list[int] = []
    lines = LinesBehind(writing, told.append, waiting_max=100)
    line = b"x" * 4_000 + b"\n"
    sent = 1_000
    for _ in range(sent):
        lines.msg(line)  # returns, though a pipe takes sixteen of them
    left = [0]

    def read() -> None:
        while got := os.read(reading, 65_536):
            left[0] += got.count(b"\n")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + SOON_S
    while left[0] < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    lines.msg(line)
    lines.close()
    os.close(writing)
    reader.join(SOON_S)
    assert len(told) == 1
    assert left[0] + told[0] == sent + 1
    os.close(reading)


def test_nobody_who_reads_is_nobodys_trouble() -> None:
    """A collector that is gone breaks no caller, and ends are short."""
    reading, writing = os.pipe()
    os.close(reading)
    lines = LinesBehind(writing, lambda _: None)
    lines.msg(b"a line\n")
    lines.close()
    os.close(writing)
