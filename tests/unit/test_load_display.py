"""What is shown of a run, on a terminal and in a pipe."""

from __future__ import annotations

import io
import re

import pytest

from deploy.load import display
from deploy.load.books import Books
from deploy.load.display import LiveScreen, PlainScreen, Screen
from deploy.load.frame import Frame, Pace, of_books, top
from workers.store.observe import Progress


def _frame() -> Frame:
    books = Books(1_000)
    for i in range(900):
        books.due(i, 0.0)
        books.acceptance.record(0.012)
        books.accepted(i, f"id-{i}", 0.012)
    books.due(900, 0.0)
    books.refused(900, "sold_out", 0.0)
    seen = Progress(
        committed=800,
        issued=0,
        in_flight=77,
        refused={"coupon_unknown": 23},
        stock={"spring-lantern-cake": (0, 600), "milk-tea-large": (9_000, 12_000)},
        budget=0,
        spent=0,
        reserved=0,
    )
    return of_books(
        books, Pace(), 3.0, done=901, total=1_000, clock="4.2 of 9 hours", observed=seen
    )


def _play(screen: Screen) -> None:
    screen.begin("Replay")
    screen.show(_frame())
    screen.done("900 accepted")
    screen.close()


def test_a_pipe_gets_plain_lines_without_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No escape sequence, no carriage return, nothing beyond ASCII: a log file stays readable."""
    monkeypatch.setattr(display, "_LINE_EVERY_S", 0.0)
    out = io.StringIO()
    screen = display.choose(1, out)
    assert isinstance(screen, PlainScreen)
    _play(screen)
    text = out.getvalue()
    assert re.fullmatch(r"[\x20-\x7e\n]+", text)
    for figure in (
        "[1/1] Replay",
        "90%",
        "4.2 of 9 hours",
        "committed 800",
        "in flight 77",
        "refused 24 (coupon_unknown 23, sold_out 1)",
        "p50 12",
        "spring-lantern-cake 0",
    ):
        assert figure in text


def test_a_pipe_gets_one_line_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a frame is drawn."""
    clock = [0.0]
    monkeypatch.setattr(display, "monotonic", lambda: clock[0])
    out = io.StringIO()
    screen = PlainScreen(out, 1)
    screen.begin("Replay")
    frame = _frame()
    for _ in range(100):
        clock[0] += 0.031
        screen.show(frame)
    assert out.getvalue().count("\n") == 1 + 3


def test_a_terminal_that_cannot_move_its_cursor_is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM=dumb, as in an editor's shell."""
    monkeypatch.setenv("TERM", "dumb")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert isinstance(display.choose(1, terminal), PlainScreen)


def test_a_terminal_gets_the_same_figures_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moving picture says what the plain line says, and gives the cursor back."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    screen = display.choose(1, terminal)
    assert isinstance(screen, LiveScreen)
    _play(screen)
    text = terminal.getvalue()
    for figure in ("Replay", "4.2 of 9 hours", "800", "77", "of 600 spring-lantern-cake"):
        assert figure in text
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text


def test_the_greatest_counts_are_named_and_the_others_added_up() -> None:
    """A display has room for a few reasons; none is lost from the sum."""
    assert top({"a": 5, "b": 9, "c": 1, "d": 2}, 2) == [("b", 9), ("a", 5), ("others", 3)]
    assert top({}, 2) == []
