"""Frames: what is seen on a screen of any size.

The golden frames are beside this file, in `top_frames`. Where one is missing it is drawn anew, and the
test fails once: look at it, and commit it.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from top_world import away, exporter, flood, governor, minutes, moment, seen, status

from deploy.top.figures import Figures
from deploy.top.history import History
from deploy.top.keys import VIEWS, Ui
from deploy.top.model import figures_of
from deploy.top.page import Page, lines
from deploy.top.pen import Pen
from deploy.top.sources import STATUS
from workers.domain.overload import Level

FRAMES = Path(__file__).parent / "top_frames"


def page(width: int = 80, rows: int | None = 24, **more: object) -> Page:
    given = {
        "figures": figures_of(flood(), moment()),
        "history": minutes(),
        "ui": Ui(),
        "pen": Pen(),
    }
    return Page(width=width, rows=rows, **given | more)  # type: ignore[arg-type]


def plain(drawn: Page) -> str:
    return "".join(f"{line.plain.rstrip()}\n" for line in lines(drawn))


def empty() -> Figures:
    return figures_of([], moment())


def golden(name: str, drawn: str) -> None:
    path = FRAMES / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawn, encoding="utf-8")
        pytest.fail(f"{path} was missing and is drawn anew: look at it, and commit it")
    assert drawn == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "rows"), [(80, 24), (120, 40), (200, 60)])
def test_a_flood_fits_one_screen(width: int, rows: int) -> None:
    """Level, rates, waits, refusals, pipeline, stock and budget at a glance."""
    golden(f"overview-{width}x{rows}", plain(page(width, rows)))


@pytest.mark.parametrize("view", VIEWS[1:])
def test_each_view_has_more_of_its_subject(view: str) -> None:
    """On the smallest of the usual screens."""
    golden(f"{view}-80x24", plain(page(ui=Ui(view=view))))


def test_a_deployment_of_which_little_is_told_shows_dashes() -> None:
    """No exporter, no status, no API: only the governor and what it knows."""
    figures = figures_of([seen("governor", governor(), governor())], moment())
    golden("governor-alone-80x24", plain(page(figures=figures, history=History())))


def test_a_source_that_is_away_is_seen_on_every_view() -> None:
    """With its age; and the frame is as large as ever."""
    figures = figures_of(away(), moment())
    for view in VIEWS:
        drawn = plain(page(figures=figures, ui=Ui(view=view)))
        assert "! exporter away for 12 s: Connection refused" in drawn
    assert re.search(r"^exporter +away +12 s .*Connection refused", drawn, re.MULTILINE)


@pytest.mark.parametrize("view", [*VIEWS, "help"])
def test_a_frame_has_the_size_of_the_screen(view: str) -> None:
    """However small or large, and whatever is known: nothing scrolls, nothing wraps."""
    ui = Ui(help=True) if view == "help" else Ui(view=view)
    for figures in (figures_of(flood(), moment()), empty()):
        for width, rows in ((1, 1), (20, 5), (59, 18), (80, 24), (149, 33), (150, 34), (250, 80)):
            drawn = lines(page(width, rows, figures=figures, ui=ui))
            assert [cell_len(line.plain) for line in drawn] == [width] * rows, (width, rows)
            if rows > 4:
                assert drawn[-1].plain.startswith("1 overview"[:width])


def test_a_terminal_without_such_characters_gets_ascii() -> None:
    """Bars and sparklines too; only names are as the operator wrote them."""
    drawn = plain(page(120, 40, pen=Pen(ascii=True)))
    assert re.fullmatch(r"[\x20-\x7e\n竹筒飯]+", drawn)
    assert "#" in drawn


def test_without_colours_nothing_is_lost() -> None:
    """NO_COLOR: the level, what is down and what is sold out are words, not colours."""
    figures = figures_of(
        [*flood()[:-1], seen("exporter", exporter(0), exporter(1, tidegate_valkey_up=0))], moment()
    )
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=120, highlight=False)
    console.print(Text("\n").join(lines(page(120, 40, figures=figures))))
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|4[0-7])m", out.getvalue())
    words = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    for word in ("SHEDDING", "Valkey            DOWN", "sold out", "! Valkey does not answer"):
        assert word in words


def test_a_name_cannot_write_to_the_terminal() -> None:
    """What a label holds is shown, never obeyed."""
    campaign = "\x1b[2Jmine"
    held = exporter(
        1,
        tidegate_stock_units={f"campaign={campaign},sku=a\rb,state=initial": 3},
        tidegate_budget_minor_units={},
    )
    figures = figures_of([seen("exporter", held)], moment())
    drawn = plain(page(figures=figures, ui=Ui(view="campaigns")))
    assert "?[2Jmine" in drawn
    assert "\x1b" not in drawn
    assert "\r" not in drawn


@pytest.mark.parametrize("level", Level)
def test_the_level_is_told_in_words(level: Level) -> None:
    """Its name first, then what it means."""
    told = status(level=level, reason="" if level is Level.NORMAL else "wait")
    first = plain(page(figures=figures_of([seen(STATUS, told)], moment()))).splitlines()[0]
    assert first.startswith(level.value.upper())


def test_a_pause_is_seen() -> None:
    """Or one would take the picture for the present."""
    assert "PAUSED at 12:04:31" in plain(page(ui=Ui(paused=True)))


def test_what_is_typed_for_a_filter_is_seen() -> None:
    """And afterwards that there is one."""
    assert "filter: milk" in plain(page(ui=Ui(typing=True, filter="milk")))
    assert plain(page(ui=Ui(filter="milk"))).splitlines()[-1].endswith("/milk")


def test_a_filter_keeps_the_items_that_it_means() -> None:
    """And the campaign they belong to."""
    drawn = plain(page(ui=Ui(view="campaigns", filter="MILK")))
    assert "milk-tea-large" in drawn
    assert "lantern-cake" not in drawn
    assert "none that matches" in plain(page(ui=Ui(view="campaigns", filter="nothing")))


def test_campaigns_are_sorted_as_wished() -> None:
    """The scarcest first, where something runs out; or the busiest; or by name."""
    (one,) = figures_of(flood(), moment()).campaigns
    quiet = replace(one, campaign="a-quiet", committed=replace(one.committed, per_s=0.0))
    full = replace(one, campaign="b-full", items={"tea": replace(one.stock, available=5_020_600)})
    figures = replace(figures_of(flood(), moment()), campaigns=[one, quiet, full])
    for sort, names in (
        ("scarcest", ["a-quiet", one.campaign, "b-full"]),
        ("busiest", ["b-full", one.campaign, "a-quiet"]),
        ("name", ["a-quiet", "b-full", one.campaign]),
    ):
        drawn = plain(page(figures=figures, rows=60, ui=Ui(view="campaigns", sort=sort)))
        listed = drawn[: drawn.index("BUDGETS")]
        assert re.findall(r"^(?:a-quiet|b-full|qwen-spring-2026)\b", listed, re.MULTILINE) == names


def test_what_does_not_fit_can_be_scrolled_to() -> None:
    """The last line says how far it goes."""
    top = plain(page(rows=12, ui=Ui(view="sources")))
    assert re.search(r"^1 to 7 of \d+, up and down$", top, re.MULTILINE)
    assert "exporter" not in top
    down = plain(page(rows=12, ui=Ui(view="sources", scroll=1_000)))
    assert "webhooks" in down


def test_a_pipe_gets_all_of_a_frame_and_no_keys() -> None:
    """As long as it takes."""
    drawn = plain(page(rows=None))
    assert "DEPENDENCIES" in drawn
    assert "竹筒飯" in drawn
    assert "q quit" not in drawn


def test_a_sparkline_is_drawn_against_its_greatest_value() -> None:
    """A gap is a gap, and nothing at all is not nothing."""
    assert Pen().spark([0, 1, 4, 8, None, 8]) == "▁▂▅█ █"
    assert Pen().spark([0, 0]) == "▁▁"
    assert Pen(ascii=True).spark([0, 8]) == "_#"


def test_a_bar_is_never_full_before_all_is_there_nor_empty_before_all_is_gone() -> None:
    """One unit of a million is one block."""
    assert Pen().bar(1e-6, 10) == "█░░░░░░░░░"
    assert Pen().bar(0.999, 10) == "█████████░"
    assert (Pen().bar(0, 4), Pen().bar(1, 4), Pen().bar(None, 4)) == ("░░░░", "████", "    ")


def test_a_cell_of_the_history_is_the_mean_of_its_time() -> None:
    """Cells stand still while they fill; what is too old falls out."""
    history, figures = History(), figures_of(flood(), moment())
    for at, in_flight in enumerate((10, 20, 30, 50, None, 70)):
        pipeline = replace(figures.pipeline, in_flight=in_flight)
        history.add(100.0 + at, replace(figures, pipeline=pipeline))
    assert history.cells("in flight", 3, 2.0) == [15, 40, 70]
    assert history.cells("in flight", 4, 2.0) == [None, 15, 40, 70]
    assert history.cells("in flight", 2, 2.0) == [40, 70]
    assert History().cells("in flight", 2, 2.0) == [None, None]
