"""Log lines that are written behind their callers: all of them, in order, and in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from config import logging
from config.lines import LinesBehind
from tests.unit.test_logging import PRELUDE, events

SOON_S = 30.0


def test_lines_are_written_in_their_order_and_none_is_lost_at_the_end() -> None:
    """Whoever ends a process has its last lines."""
    behind = "from config.logging import write_behind\nwrite_behind()\n"
    told = events(behind + "for n in range(500): log.info('event', n=n, wide=True)")
    assert [event["n"] for event in told] == list(range(500))


LINE = b"x" * 4_000 + b"\n"  # a pipe takes sixteen of them


class Reader:
    """Counts the lines of a pipe, from when it is started on."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self.lines: Counter[bytes] = Counter()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    def _read(self) -> None:
        with open(self._reading, "rb", closefd=False) as pipe:
            for line in pipe:
                self.lines[line] += 1


@pytest.fixture
def pipe() -> Iterator[tuple[int, Reader]]:
    """A pipe's end to write to, and who may read the other; no writer is left at its end."""
    reading, writing = os.pipe()
    reader = Reader(reading)
    yield writing, reader
    with suppress(OSError):
        os.close(writing)
    os.close(reading)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_who_stalls_holds_up_nobody_and_hears_how_much_he_missed(
    pipe: tuple[int, Reader],
) -> None:
    """The pipe is full for as long as he does not read; calls go on, and so does he, once he reads."""
    writing, reader = pipe
    told: list[int] = []
    lines = LinesBehind(writing, told.append, waiting_max=100)
    sent = 1_000
    for _ in range(sent):
        lines.msg(LINE)  # returns
    assert told == []
    reader.start()
    until(lambda: reader.lines[LINE] + sum(told) == sent)
    assert told
    lines.msg(LINE)
    until(lambda: reader.lines[LINE] + sum(told) == sent + 1)
    lines.close()
    os.close(writing)
    reader.join()
    assert reader.lines[LINE] + sum(told) == sent + 1


@pytest.mark.parametrize("waiting_max", [0, 1, 10])
def test_how_many_were_left_out_needs_no_place_of_its_own(
    pipe: tuple[int, Reader], waiting_max: int
) -> None:
    """It is told on the same way as they, which is full; by many at once, and to the last."""
    writing, reader = pipe

    def tell(count: int) -> None:
        lines.msg(b"%d\n" % count)

    lines = LinesBehind(writing, tell, waiting_max)
    each, crowd = 5_000, 4

    def send() -> None:
        for _ in range(each):
            lines.msg(LINE)

    senders = [threading.Thread(target=send) for _ in range(crowd)]
    for one in senders:
        one.start()
    reader.start()
    for one in senders:
        one.join()
    lines.close()  # all that is left is told by then
    until(lambda: not lines._thread.is_alive())
    os.close(writing)
    reader.join()
    written = reader.lines.pop(LINE, 0)
    assert written + sum(int(line) * times for line, times in reader.lines.items()) == each * crowd


def test_whoever_still_writes_after_the_end_is_written_in_his_turn(
    pipe: tuple[int, Reader],
) -> None:
    """Another thread, which knows of no end: at once, and never beside what waits."""
    writing, reader = pipe
    lines = LinesBehind(writing, lambda _: None, waiting_max=10_000_000)
    sent = []

    def send() -> None:
        more = 10
        while more:
            more -= not lines._thread.is_alive()
            sent.append(b"%d\n" % len(sent))
            lines.msg(sent[-1])

    sender = threading.Thread(target=send)
    sender.start()
    reader.start()
    lines.close()
    sender.join()
    os.close(writing)
    reader.join()
    assert reader.lines == Counter(sent)


def test_the_end_makes_nobody_wait_for_a_reader_who_stalls(
    pipe: tuple[int, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who logs while a process ends is as free as before."""
    monkeypatch.setattr("config.lines._END_S", 0.1)
    monkeypatch.setattr(logging._out, "descriptor", pipe[0])
    monkeypatch.setattr(logging._out, "lines", LinesBehind(pipe[0], lambda _: None))
    for _ in range(100):
        logging._out.lines.msg(LINE)
    logging.flush()
    speaking = threading.Thread(target=lambda: logging._out.lines.msg(LINE), daemon=True)
    speaking.start()
    speaking.join(SOON_S / 3)
    held_up = speaking.is_alive()
    pipe[1].start()  # lets everybody go
    until(lambda: pipe[1].lines[LINE] >= 100)
    assert not held_up


FULL = """
import sys, time
from config import logging as ours
ours.write_behind()
for n in range(15_000):
    log.info('event', n=n, wide=True)
sys.stderr.write('sent\\n')
sys.stderr.flush()
while ours._out.lines._waiting:
    time.sleep(0.01)
"""


def test_a_processs_lines_and_those_it_left_out_are_all_that_it_said() -> None:
    """Behind a pipe that is read late; told by a line like any other."""
    code = PRELUDE.format(level="info", fmt="json", to="stdout") + FULL
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert running.stderr
        assert running.stderr.readline() == "sent\n"  # nothing was read yet
        told = [json.loads(line) for line in running.stdout]
        assert (running.wait(SOON_S), running.stderr.read()) == (0, "")
    names = Counter(event["event"] for event in told)
    left_out = sum(event.get("left_out", 0) for event in told)
    assert names.keys() == {"event", "lines not written in time"}
    assert left_out > 0
    assert names["event"] + left_out == 15_000


def test_a_collector_that_is_gone_is_nobodys_trouble() -> None:
    """It breaks no caller, nor the thread that writes, and ends are short."""
    reading, writing = os.pipe()
    os.close(reading)
    lines = LinesBehind(writing, lambda _: None)
    for _ in range(2):
        lines.msg(b"a line\n")
        until(lambda: not lines._waiting)
        assert lines._thread.is_alive()
    lines.close()
    assert not lines._thread.is_alive()
    os.close(writing)
