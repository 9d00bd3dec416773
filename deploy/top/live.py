"""The live view: a frame an interval, and one at once for each key."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import Final

from rich.console import Console
from rich.text import Text

from deploy.top.figures import Figures
from deploy.top.history import History
from deploy.top.keys import Ui, press
from deploy.top.model import UNHEARD, Moment, figures_of
from deploy.top.page import Page, lines
from deploy.top.pen import Pen
from deploy.top.reading import Seen
from deploy.top.sources import TIMEOUT_S
from deploy.top.terminal import Terminal
from deploy.top.watching import Watch

_GLANCE_S: Final = 0.2  # how long a signal or a new size of the window may take to be noticed


def moves(console: Console) -> bool:
    """Tell whether a console can show a picture that moves."""
    return console.is_terminal and not console.is_dumb_terminal


def once(watch: Watch) -> Figures:
    """Read every source twice, and put together what they said; an absent one is not waited for."""
    watch.wait_for(_twice, 2 * TIMEOUT_S + watch.interval_s)
    return _figures(watch, monotonic())


def _twice(seen: Seen) -> bool:
    return bool(seen.error) or len(seen.readings) > 1


def frame(figures: Figures, console: Console, ui: Ui) -> list[Text]:
    """Draw one frame, as long as it takes."""
    return lines(
        Page(
            figures=figures,
            history=History(),
            ui=ui,
            width=console.width,
            rows=None,
            pen=_pen(console),
        )
    )


def run(watch: Watch, console: Console, ui: Ui) -> int | None:
    """Draw until a key quits; return the signal that ended it, if one did."""
    history, figures, next_s = History(), _figures(watch, monotonic()), 0.0
    shown: object = None
    with Terminal(console) as terminal:
        while not ui.quit and terminal.ended_by is None:
            now_s = monotonic()
            if now_s >= next_s:
                latest = _figures(watch, now_s)
                history.add(now_s, latest)
                figures = figures if ui.paused else latest
                first = any(one.state == UNHEARD for one in latest.sources)
                next_s = now_s + (_GLANCE_S if first else ui.interval_s)
            width, rows = terminal.size
            wanted = (figures, ui, width, rows)
            if wanted != shown:
                page = Page(
                    figures=figures,
                    history=history,
                    ui=ui,
                    width=width,
                    rows=rows,
                    pen=_pen(console),
                )
                terminal.draw(lines(page))
                shown = wanted
            for key in terminal.keys(min(next_s - monotonic(), _GLANCE_S)):
                ui = press(ui, key)
            if ui.interval_s != watch.interval_s:
                watch.interval_s, next_s = ui.interval_s, 0.0
    return terminal.ended_by


def _figures(watch: Watch, at_s: float) -> Figures:
    moment = Moment(at_s=at_s, at=datetime.now(UTC), window_s=watch.window_s, stale_s=watch.stale_s)
    return figures_of(watch.seen(), moment)


def _pen(console: Console) -> Pen:
    return Pen(ascii=console.options.ascii_only or not moves(console))
