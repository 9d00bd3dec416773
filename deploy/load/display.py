"""Displays: a picture that moves on a terminal, one plain line a second everywhere else.

A pipe, a log file or a terminal that cannot move its cursor gets lines of plain ASCII without
control codes; what is said is the same.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.load.frame import Frame, top

_LINE_EVERY_S = 1.0
_REASONS_MAX = 4
_STOCK_MAX = 4


class Screen(Protocol):
    """Who shows a run. Steps come one after another; each is begun, shown, and done."""

    def begin(self, title: str) -> None:
        """A step begins."""

    def show(self, frame: Frame) -> None:
        """The step stands like this; may be called as often as one likes."""

    def done(self, remark: str) -> None:
        """The step is over; `remark` says what came of it."""

    def close(self) -> None:
        """Leave the terminal as it was; begun steps stay visible."""


def choose(steps: int, out: TextIO | None = None) -> Screen:
    """Take the moving picture where `out` (standard output) can show it."""
    out = out or sys.stdout
    console = Console(file=out, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, steps)
    return PlainScreen(out, steps)


class PlainScreen:
    """One line a second, and one at the beginning and the end of a step."""

    def __init__(self, out: TextIO, steps: int) -> None:
        self._out = out
        self._steps = steps
        self._step = 0
        self._began = self._said = monotonic()

    def begin(self, title: str) -> None:
        """See `Screen`."""
        self._step += 1
        self._said = monotonic()
        self._say(f"[{self._step}/{self._steps}] {title}")

    def show(self, frame: Frame) -> None:
        """See `Screen`."""
        if monotonic() - self._said >= _LINE_EVERY_S:
            self._said = monotonic()
            self._say("      " + line(frame))

    def done(self, remark: str) -> None:
        """See `Screen`."""
        self._say(f"      done: {remark}")

    def close(self) -> None:
        """See `Screen`."""
        self._out.flush()

    def _say(self, text: str) -> None:
        elapsed = int(monotonic() - self._began)
        self._out.write(f"{elapsed // 60:02}:{elapsed % 60:02} {text}\n")
        self._out.flush()


def line(frame: Frame) -> str:
    """Say a frame in one line."""
    parts = [f"{frame.share:4.0%}" if frame.total else f"{frame.elapsed_s:.0f} s"]
    if frame.clock:
        parts.append(frame.clock)
    tally = frame.tally
    if tally is not None:
        pace = f" ({frame.sent_per_s:,.0f}/s)" if frame.sent_per_s else ""
        parts.append(f"sent {tally.sent:,}{pace}")
        parts.append(f"accepted {tally.accepted:,}")
        if frame.knows_outcomes:
            parts.append(f"committed {frame.committed:,}")
            parts.append(f"in flight {frame.in_flight:,}")
        refused = f"refused {sum(frame.refused.values()):,}"
        parts.append(refused + _bracketed(top(frame.refused, 3)))
    if frame.acceptance is not None and frame.acceptance.count:
        at = frame.acceptance
        parts.append(f"receipt after p50 {at.p50:,.0f} p90 {at.p90:,.0f} p99 {at.p99:,.0f} ms")
    if tally is not None and tally.repeats_same:
        parts.append(f"same key again {tally.repeats_same:,}")
    if tally is not None and tally.repeats_other:
        parts.append(f"same key answered DIFFERENTLY {tally.repeats_other:,}")
    if stock := _stock(frame):
        parts.append("stock" + _bracketed([(sku, left) for sku, left, _ in stock]))
    return ", ".join(parts)


def _bracketed(counts: list[tuple[str, int]]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in counts)})" if counts else ""


def _stock(frame: Frame) -> list[tuple[str, int, int]]:
    """The scarcest SKUs: what is left of them, and of how many. The same ones in every frame."""
    if frame.observed is None:
        return []
    left = [(sku, now, first) for sku, (now, first) in frame.observed.stock.items()]
    return sorted(left, key=lambda row: (row[2], row[0]))[:_STOCK_MAX]


class LiveScreen:
    """A picture redrawn in place; finished steps scroll up as lines."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._step = 0
        self._title = ""
        self._began = self._step_began = monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def begin(self, title: str) -> None:
        """See `Screen`."""
        self._step += 1
        self._title = title
        self._step_began = monotonic()
        self.show(Frame(done=0, total=0, elapsed_s=0.0))

    def show(self, frame: Frame) -> None:
        """See `Screen`."""
        self._live.update(Group(self._head(frame), *_body(frame)), refresh=True)

    def done(self, remark: str) -> None:
        """See `Screen`."""
        took = monotonic() - self._step_began
        self._console.print(
            Text.assemble(
                (f"{self._step}/{self._steps} ", "dim"),
                (self._title, "bold"),
                (f"  {took:.1f} s  ", "dim"),
                remark,
            )
        )
        self._live.update(Text(""), refresh=True)

    def close(self) -> None:
        """See `Screen`."""
        self._live.stop()

    def _head(self, frame: Frame) -> Table:
        head = Table.grid(padding=(0, 2))
        elapsed = int(monotonic() - self._began)
        cells: list[Text | ProgressBar] = [
            Text(f"{self._step}/{self._steps}", "dim"),
            Text(self._title, "bold"),
        ]
        if frame.total:
            cells += [ProgressBar(1.0, frame.share, width=32), Text(f"{frame.share:4.0%}")]
        if frame.clock:
            cells.append(Text(frame.clock, "cyan"))
        head.add_row(*cells, Text(f"{elapsed // 60:02}:{elapsed % 60:02}", "dim"))
        return head


def _body(frame: Frame) -> list[Table]:
    """Draw the figures, where the step has any."""
    tally = frame.tally
    if tally is None:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right", min_width=10)
    table.add_column()
    table.add_row("sent", f"{tally.sent:,}", _per_s(frame.sent_per_s))
    table.add_row("accepted", f"{tally.accepted:,}", _per_s(frame.accepted_per_s))
    if frame.knows_outcomes:
        table.add_row("committed", f"{frame.committed:,}", Text("orders", "dim"))
        table.add_row("in flight", f"{frame.in_flight:,}", Text("accepted, not decided", "dim"))
    table.add_row("refused", f"{sum(frame.refused.values()):,}", _listed(frame))
    table.add_row("same key again", f"{tally.repeats_same:,}", _repeats(tally.repeats_other))
    at = frame.acceptance
    if at is not None and at.count:
        spread = f"p90 {at.p90:,.0f}   p99 {at.p99:,.0f}   max {at.max:,.0f} ms"
        table.add_row("receipt after", f"p50 {at.p50:,.0f}", spread)
    for place, (sku, left, first) in enumerate(_stock(frame)):
        style = "red" if left == 0 else ""
        label = "stock left" if place == 0 else ""
        table.add_row(label, Text(f"{left:,}", style), f"of {first:,} {sku}")
    return [table]


def _per_s(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate else ""


def _listed(frame: Frame) -> Text:
    return Text("   ".join(f"{why} {n:,}" for why, n in top(frame.refused, _REASONS_MAX)))


def _repeats(differently: int) -> Text:
    if differently:
        return Text(f"{differently:,} answered DIFFERENTLY", "bold red")
    return Text("all answered with the same intent", "dim")
