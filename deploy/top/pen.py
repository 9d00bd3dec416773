"""The pen: lines of text that fit, sparklines and bars; in ASCII where the terminal has no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from rich.text import Text

from deploy.top.figures import Number

GAP: Final = 3  # between blocks that stand side by side

_SPARKS: Final = ("▁▂▃▄▅▆▇█", "_.-~=+*#")
_BARS: Final = ("█░", "#.")


class Pen(Struct, frozen=True):
    """What may be drawn with."""

    ascii: bool = False

    def spark(self, values: Sequence[Number]) -> str:
        """Draw values against the greatest of them; nothing where one is not known."""
        steps = _SPARKS[self.ascii]
        most = max((value for value in values if value is not None), default=0.0)
        drawn = [
            " "
            if value is None
            else steps[min(int(value / most * len(steps)), len(steps) - 1) if most > 0 else 0]
            for value in values
        ]
        return "".join(drawn)

    def bar(self, ratio: float | None, width: int) -> str:
        """Draw what is left; a little is not nothing, and nearly all not all."""
        if ratio is None or width < 1:
            return " " * max(width, 0)
        full, empty = _BARS[self.ascii]
        whole = round(ratio * width)
        if 0 < ratio < 1 and width > 1:
            whole = min(max(whole, 1), width - 1)
        return full * whole + empty * (width - whole)

    @property
    def dot(self) -> str:
        """What stands between two remarks."""
        return " | " if self.ascii else " · "


def fit(line: Text, width: int) -> Text:
    """Cut or pad a line to a width in cells; what would move a cursor is not let through."""
    fitted = line.copy()
    if not fitted.plain.isprintable():
        fitted.plain = "".join(one if one.isprintable() else "?" for one in fitted.plain)
    fitted.truncate(max(width, 0), overflow="crop", pad=True)
    return fitted


def beside(blocks: Sequence[Sequence[Text]], widths: Sequence[int]) -> list[Text]:
    """Set blocks side by side."""
    lines = []
    for at in range(max(map(len, blocks), default=0)):
        line = Text()
        for place, (block, width) in enumerate(zip(blocks, widths, strict=True)):
            line.append(" " * GAP if place else "")
            line.append_text(fit(block[at] if at < len(block) else Text(), width))
        lines.append(line)
    return lines


def heading(title: str, remark: str = "") -> Text:
    """Write the first line of a block."""
    return Text.assemble((title, "bold cyan"), (remark, "dim"))


def row(label: str, value: str, remark: str | Text = "", style: str = "") -> Text:
    """Write a figure: its name, its value to the right of a column, and a remark."""
    return Text.assemble((f"{label:<13}", "dim"), (f"{value:>9}", style), "  ", remark)


def scrolled(lines: list[Text], rows: int | None, first: int, remark: str = "") -> list[Text]:
    """Keep what fits, from line `first` on; where that is not all, the last line says so."""
    if rows is None or len(lines) <= rows:
        return lines
    first = min(first, len(lines) - rows + 1)
    shown = lines[first : first + max(rows - 1, 0)]
    told = f"{first + 1} to {first + len(shown)} of {len(lines)}" + (
        f", {remark}" if remark else ""
    )
    return [*shown, Text(told, "dim")]
