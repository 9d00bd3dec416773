"""Keys, and what each changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

VIEWS: Final = ("overview", "refusals", "pipeline", "campaigns", "sources")
SORTS: Final = ("scarcest", "busiest", "name")
INTERVALS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_PAGE: Final = 10
_FILTER_MAX: Final = 40

_NAMED: Final = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1b": "escape",
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[Z": "back tab",
}
# A control sequence is one key, also where we have no name for it.
_KEY: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|\x1b|.", re.DOTALL)


class Ui(Struct, frozen=True, kw_only=True):
    """What whoever looks has chosen."""

    view: str = VIEWS[0]
    interval_s: float = 1.0
    sort: str = SORTS[0]
    filter: str = ""  # campaigns and items whose name holds this
    typing: bool = False  # the filter
    scroll: int = 0
    paused: bool = False
    help: bool = False
    quit: bool = False


Change = Callable[[Ui], Ui]


def named(typed: bytes) -> list[str]:
    """Name the keys in what a terminal sent: a character by itself, others by a word."""
    return [_NAMED.get(key, key) for key in _KEY.findall(typed.decode(errors="ignore"))]


def press(ui: Ui, key: str) -> Ui:
    """Return what a key makes of it."""
    if ui.typing:
        return _type(ui, key)
    if ui.help:  # any key leaves it
        return replace(ui, help=False, quit=key == "q")
    change = _CHANGES.get(key)
    return ui if change is None else change(ui)


def _type(ui: Ui, key: str) -> Ui:
    match key:
        case "enter":
            return replace(ui, typing=False)
        case "escape":
            return replace(ui, typing=False, filter="")
        case "backspace":
            return replace(ui, filter=ui.filter[:-1])
    if len(key) == 1 and key.isprintable() and len(ui.filter) < _FILTER_MAX:
        return replace(ui, filter=ui.filter + key)
    return ui


def _next(names: tuple[str, ...], name: str, step: int) -> str:
    return names[(names.index(name) + step) % len(names)]


def _longer(interval_s: float) -> float:
    return next((one for one in INTERVALS_S if one > interval_s), interval_s)


def _shorter(interval_s: float) -> float:
    return next((one for one in reversed(INTERVALS_S) if one < interval_s), interval_s)


def _show(view: str) -> Change:
    return lambda ui: replace(ui, view=view, scroll=0)


def _scroll(lines: int) -> Change:
    return lambda ui: replace(ui, scroll=max(ui.scroll + lines, 0))


def _pause(ui: Ui) -> Ui:
    return replace(ui, paused=not ui.paused)


_CHANGES: Final[Mapping[str, Change]] = {
    **{str(place): _show(view) for place, view in enumerate(VIEWS, start=1)},
    "tab": lambda ui: replace(ui, view=_next(VIEWS, ui.view, 1), scroll=0),
    "back tab": lambda ui: replace(ui, view=_next(VIEWS, ui.view, -1), scroll=0),
    "up": _scroll(-1),
    "k": _scroll(-1),
    "down": _scroll(1),
    "j": _scroll(1),
    "page up": _scroll(-_PAGE),
    "page down": _scroll(_PAGE),
    "s": lambda ui: replace(ui, sort=_next(SORTS, ui.sort, 1), scroll=0),
    "/": lambda ui: replace(ui, typing=True, filter="", scroll=0),
    "escape": lambda ui: replace(ui, filter="", scroll=0),
    "p": _pause,
    " ": _pause,
    "+": lambda ui: replace(ui, interval_s=_longer(ui.interval_s)),
    "=": lambda ui: replace(ui, interval_s=_longer(ui.interval_s)),
    "-": lambda ui: replace(ui, interval_s=_shorter(ui.interval_s)),
    "?": lambda ui: replace(ui, help=True),
    "h": lambda ui: replace(ui, help=True),
    "q": lambda ui: replace(ui, quit=True),
}
