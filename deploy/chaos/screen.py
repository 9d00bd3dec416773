"""Showing a run: a picture that moves on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol, TextIO

from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE_EVERY_S: Final = 2.0
_EVENTS: Final = 6
_WIDTH: Final = 32


class Picture(Struct, frozen=True, kw_only=True):
    """A scenario as it stands."""

    stage: str
    share: float = 0.0  # of the stage, from 0 to 1
    posts: int = 0
    receipts: int = 0
    noes: int = 0
    unknown: int = 0
    told: int = 0  # outcomes, by whatever way
    waiting: int = 0  # buyers without an answer or an outcome
    faults: int = 0
    kills: int = 0
    active: tuple[str, ...] = ()


class Screen(Protocol):
    """Who shows a run."""

    def begin(self, title: str, line: str) -> None:
        """A scenario begins."""

    def show(self, picture: Picture) -> None:
        """It stands like this; may be called as often as one likes."""

    def event(self, said: str) -> None:
        """Something happened; may be called from any thread."""

    def done(self, remark: str, *, clean: bool) -> None:
        """It is over."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def choose(scenarios: int | None, out: TextIO | None = None) -> Screen:
    """Take the moving picture where `out` (standard output) can show it.

    `scenarios` is how many there will be; None where nobody knows.
    """
    out = out or sys.stdout
    console = Console(file=out, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, scenarios)
    return PlainScreen(out, scenarios)


class PlainScreen:
    """A line at the beginning and the end of a scenario, for each event, and every other second."""

    def __init__(self, out: TextIO, scenarios: int | None) -> None:
        self._out, self._scenarios = out, scenarios
        self._number = 0
        self._began = self._said = monotonic()

    def begin(self, title: str, line: str) -> None:
        """See `Screen`."""
        self._number += 1
        self._say(f"[{_place(self._number, self._scenarios)}] {title}: {line}")

    def show(self, picture: Picture) -> None:
        """See `Screen`."""
        if monotonic() - self._said >= _LINE_EVERY_S:
            self._said = monotonic()
            self._say("      " + line_of(picture))

    def event(self, said: str) -> None:
        """See `Screen`."""
        self._say(f"        {said}")

    def done(self, remark: str, *, clean: bool) -> None:
        """See `Screen`."""
        self._say(f"      {remark}")

    def close(self) -> None:
        """See `Screen`."""
        self._out.flush()

    def _say(self, text: str) -> None:
        elapsed = int(monotonic() - self._began)
        self._out.write(f"{elapsed // 60:02}:{elapsed % 60:02} {text}\n")
        self._out.flush()


class Heeding:
    """Another screen, and `heed` at each look at the run: it may raise, to end it."""

    def __init__(self, screen: Screen, heed: Callable[[], None]) -> None:
        self._heed = heed
        self.begin, self.event = screen.begin, screen.event
        self.done, self.close = screen.done, screen.close
        self._show = screen.show

    def show(self, picture: Picture) -> None:
        """See `Screen`."""
        self._heed()
        self._show(picture)


def _place(number: int, of: int | None) -> str:
    return f"{number}/{of}" if of else str(number)


def line_of(picture: Picture) -> str:
    """Say a picture in one line."""
    parts = [
        f"{picture.stage} {picture.share:4.0%}",
        f"posts {picture.posts:,}",
        f"receipts {picture.receipts:,}",
        f"told {picture.told:,}",
        f"no {picture.noes:,}",
        f"unknown {picture.unknown:,}",
        f"waiting {picture.waiting:,}",
        f"faults {picture.faults} (kills {picture.kills})",
    ]
    return ", ".join(parts) + (f": {'; '.join(picture.active)}" if picture.active else "")


class LiveScreen:
    """A picture redrawn in place; finished scenarios scroll up as lines."""

    def __init__(self, console: Console, scenarios: int | None) -> None:
        self._console, self._scenarios = console, scenarios
        self._number = 0
        self._title = self._line = ""
        self._began = monotonic()
        self._scenario_began = self._began
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def begin(self, title: str, line: str) -> None:
        """See `Screen`."""
        self._number += 1
        self._title, self._line = title, line
        self._scenario_began = monotonic()
        self._events.clear()
        self.show(Picture(stage="starting"))

    def show(self, picture: Picture) -> None:
        """See `Screen`."""
        self._live.update(
            Group(self._head(picture), Text(self._line, "dim"), self._body(picture)), refresh=True
        )

    def event(self, said: str) -> None:
        """See `Screen`."""
        self._events.append(said)

    def done(self, remark: str, *, clean: bool) -> None:
        """See `Screen`."""
        took = monotonic() - self._scenario_began
        self._console.print(
            Text.assemble(
                (f"{_place(self._number, self._scenarios)} ", "dim"),
                (self._title, "bold"),
                (f"  {took:.0f} s  ", "dim"),
                (remark, "green" if clean else "bold red"),
            )
        )
        self._live.update(Text(""), refresh=True)

    def close(self) -> None:
        """See `Screen`."""
        self._live.stop()

    def _head(self, picture: Picture) -> Table:
        head = Table.grid(padding=(0, 2))
        elapsed = int(monotonic() - self._began)
        head.add_row(
            Text(_place(self._number, self._scenarios), "dim"),
            Text(self._title, "bold"),
            Text(picture.stage, "cyan"),
            ProgressBar(1.0, picture.share, width=_WIDTH),
            Text(f"{elapsed // 60:02}:{elapsed % 60:02}", "dim"),
        )
        return head

    def _body(self, picture: Picture) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right", min_width=8)
        table.add_column()
        table.add_row("posts", f"{picture.posts:,}", "")
        table.add_row(
            "receipts", f"{picture.receipts:,}", Text("each the promise of one outcome", "dim")
        )
        table.add_row(
            "told",
            f"{picture.told:,}",
            Text("outcomes: with the answer, asked for, announced", "dim"),
        )
        table.add_row("told no", f"{picture.noes:,}", "")
        table.add_row("unknown", f"{picture.unknown:,}", Text("calls without a clear end", "dim"))
        table.add_row(
            "waiting", f"{picture.waiting:,}", Text("buyers without answer or outcome", "dim")
        )
        table.add_row("faults", f"{picture.faults:,}", Text(f"{picture.kills} kills", "dim"))
        for active in picture.active:
            table.add_row("now", "", Text(active, "yellow"))
        for event in list(self._events):
            table.add_row("", "", Text(event, "dim"))
        return table
