"""A chaos run is shown in plain lines without a terminal, and in a picture on one."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from deploy.chaos.screen import LiveScreen, Picture, PlainScreen, choose, line_of

PICTURE = Picture(
    stage="faults",
    share=0.5,
    posts=1_200,
    receipts=1_000,
    told=900,
    noes=20,
    unknown=3,
    waiting=40,
    faults=5,
    kills=4,
    active=("stopped worker 77",),
)


def test_without_a_terminal_there_are_lines_without_control_codes() -> None:
    out = StringIO()
    screen = choose(2, out)
    assert isinstance(screen, PlainScreen)
    screen.begin("kills, seed 1", "kill -9")
    screen.show(PICTURE)
    screen.event("worker-1 was killed")
    screen.done("clean: 5 faults", clean=True)
    screen.close()
    assert out.getvalue().splitlines() == [
        "00:00 [1/2] kills, seed 1: kill -9",
        "00:00         worker-1 was killed",
        "00:00       clean: 5 faults",
    ]


def test_a_line_says_what_was_done_and_heard() -> None:
    line = line_of(PICTURE)
    for figure in ("posts 1,200", "receipts 1,000", "told 900", "unknown 3", "waiting 40"):
        assert figure in line
    assert "faults 5 (kills 4): stopped worker 77" in line


def test_on_a_terminal_the_picture_shows_the_same_and_what_happens_now() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=100, highlight=False)
    screen = LiveScreen(console, 1)
    screen.begin("kills, seed 1", "kill -9")
    screen.event("worker-1 was killed by SIGKILL [odd]")
    screen.show(PICTURE)
    screen.done("VIOLATED I8", clean=False)
    screen.close()
    shown = out.getvalue()
    for text in ("kills, seed 1", "1,000", "stopped worker 77", "by SIGKILL [odd]", "VIOLATED I8"):
        assert text in shown
