"""Keys, and what each changes."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.top.keys import INTERVALS_S, SORTS, VIEWS, Ui, named, press


def after(keys: str | list[str], ui: Ui | None = None) -> Ui:
    return reduce(press, keys, ui or Ui())


def test_a_number_or_tab_chooses_a_view() -> None:
    """Tab goes round."""
    assert [after(str(n)).view for n in range(1, 6)] == list(VIEWS)
    assert after(["tab"]).view == VIEWS[1]
    assert after(["tab"] * len(VIEWS)).view == VIEWS[0]
    assert after(["back tab"]).view == VIEWS[-1]
    assert after("9").view == VIEWS[0]


def test_p_pauses_and_goes_on() -> None:
    """So does the space bar."""
    assert after("p").paused
    assert not after("p ").paused


def test_the_interval_goes_by_steps_and_stays_in_bounds() -> None:
    """Also from an interval that is none of the steps."""
    assert after("+").interval_s == 2.0
    assert after("-").interval_s == 0.5
    assert after("-" * 20).interval_s == INTERVALS_S[0]
    assert after("+" * 20).interval_s == INTERVALS_S[-1]
    assert after("-", Ui(interval_s=3.0)).interval_s == 2.0
    assert after("+", Ui(interval_s=60.0)).interval_s == 60.0


def test_s_goes_through_the_orders() -> None:
    """And back to the first."""
    assert [after("s" * n).sort for n in range(4)] == [*SORTS, SORTS[0]]


def test_a_filter_is_typed_and_taken_back() -> None:
    """While it is typed, letters are letters: q does not quit."""
    typed = after("/qp5")
    assert (typed.typing, typed.filter, typed.quit, typed.view) == (True, "qp5", False, VIEWS[0])
    assert after(["backspace"], typed).filter == "qp"
    kept = after(["enter"], typed)
    assert (kept.typing, kept.filter) == (False, "qp5")
    assert after(["escape"], kept).filter == ""
    assert after(["escape"], typed) == Ui()


def test_help_is_left_by_any_key_and_q_quits_from_it() -> None:
    """As in other such programs."""
    assert after("?").help
    assert not after("?5").help
    assert after("?q").quit


def test_scrolling_never_goes_above_the_first_line() -> None:
    """And another view begins at its own."""
    assert after(["down", "down", "up"]).scroll == 1
    assert after(["page up", "k"]).scroll == 0
    assert after(["page down", "2"]).scroll == 0


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[Z\t", ["page up", "page down", "back tab", "tab"]),
        (b"\x1b", ["escape"]),
        (b"\x7f\r", ["backspace", "enter"]),
        ("竹5".encode(), ["竹", "5"]),
        (b"\x1b[1;5Cq", ["\x1b[1;5C", "q"]),
        (b"", []),
    ],
)
def test_what_a_terminal_sends_is_keys(typed: bytes, keys: list[str]) -> None:
    """A control sequence that has no name here is one key that does nothing."""
    assert named(typed) == keys


@given(st.lists(st.binary(max_size=8), max_size=20))
def test_no_key_breaks_it(typed: list[bytes]) -> None:
    """Whatever is typed, there is a view, an order and an interval."""
    ui = Ui()
    for some in typed:
        for key in named(some):
            ui = press(ui, key)
    assert ui.view in VIEWS
    assert ui.sort in SORTS
    assert ui.scroll >= 0
    assert ui.filter.isprintable()
