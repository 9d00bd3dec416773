"""How a campaign run is shown on standard error: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

_LINE_EVERY_S = 5.0
_WINDOW_S = 3.0


class Pace:
    """How fast it goes: now, over the last seconds, and over all of this session."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def add(self, at_s: float, orders: int) -> tuple[float, float]:
        """Take in how far it is; return orders per second now and overall."""
        self._first = self._first or (at_s, orders)
        self._seen.append((at_s, orders))
        while at_s - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        return _rate(self._seen[0], (at_s, orders)), _rate(self._first, (at_s, orders))


def _rate(since: tuple[float, int], now: tuple[float, int]) -> float:
    took_s = now[0] - since[0]
    return (now[1] - since[1]) / took_s if took_s > 0 else 0.0


def clock(seconds: float) -> str:
    """Say a time as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class CampaignScreen:
    """Shows one session; a context manager."""

    def __init__(self, total: int, done: int, earlier_s: float, out: TextIO = sys.stderr) -> None:
        """`earlier_s` is how long earlier sessions took."""
        self._total = total
        self._out = out
        self._earlier_s = earlier_s
        self._began = time.monotonic()
        self._said = self._began - _LINE_EVERY_S
        self._pace = Pace()
        console = Console(file=out, highlight=False)
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), console=console
            )
            self._task = self._bar.add_task("", total=total, completed=done)

    def say(self, text: str) -> None:
        """Say a sentence that stays."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=self._out, flush=True)

    def show(self, orders: int, in_flight: int, doing: str) -> None:
        """Show how far it is; as often as one likes."""
        now = time.monotonic()
        elapsed_s = now - self._began
        rate, overall = self._pace.add(elapsed_s, orders)
        left = (self._total - orders) / overall if overall > 0 else 0.0
        eta = clock(left) if overall > 0 else "?"
        text = (
            f"{orders:,} of {self._total:,} orders, {rate:,.0f}/s, {overall:,.0f}/s overall, "
            f"{clock(self._earlier_s + elapsed_s)} elapsed, {eta} to go, {in_flight:,} in flight; "
            f"{doing}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=orders, description=text)
        elif now - self._said >= _LINE_EVERY_S:
            self._said = now
            self.say(f"{orders / self._total:4.0%} {text}")

    def __enter__(self) -> CampaignScreen:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
