"""The page: figures → lines that fill a screen of any size. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import Final

from msgspec import Struct
from rich.text import Text

from deploy.top import blocks, tables
from deploy.top.blocks import Canvas
from deploy.top.figures import Figures
from deploy.top.history import History
from deploy.top.keys import VIEWS, Ui
from deploy.top.pen import GAP, Pen, beside, fit, heading, scrolled
from deploy.top.words import LEVELS, REASONS, rate, share, span

_WIDE: Final = 150  # from which width on three blocks stand side by side
_NARROW: Final = 60  # below which they stand one below the other
# From how many rows of the view on the overview shows all its blocks, and campaigns below.
_TALL: Final = 30
_TALL_AND_WIDE: Final = 24
_REFUSED: Final = 7  # rows of the block, where there is no room for more
_LEVEL_STYLES: Final = {
    "normal": "bold green",
    "throttled": "bold yellow",
    "shedding": "bold magenta",
    "closed": "bold red",
}
_HELP: Final = (
    ("1 to 5, tab", "overview, refusals, pipeline, campaigns, sources"),
    ("p, space", "pause the picture; reading goes on"),
    ("+ -", "longer, shorter interval"),
    ("s", "campaigns: scarcest, busiest, or by name first"),
    ("/", "show only campaigns and items whose name holds what you type; escape: all"),
    ("up down k j", "scroll; page up, page down"),
    ("?", "this page; any key leaves it"),
    ("q, Ctrl-C", "quit"),
    ("", ""),
    ("-", "nobody says: the source is away, or shows no such series"),
    ("offered", "every intent that the intake answered"),
    ("refused", "told no at once, nothing promised"),
    ("after receipt", "refused with a reason after a receipt"),
    ("came true", "what those decided now have waited; told: what was predicted for them"),
    ("in flight", "accepted and not decided, by the gate; open: the same by the tables"),
)


class Page(Struct, frozen=True, kw_only=True):
    """What is to be shown; `rows` None: as many as it takes, and no keys below."""

    figures: Figures
    history: History
    ui: Ui
    width: int
    rows: int | None
    pen: Pen = Pen()


def lines(page: Page) -> list[Text]:
    """Draw a page: `rows` lines of exactly its width."""
    head = [*_level(page), _trouble(page)]
    if page.rows is None:
        return [fit(line, page.width) for line in (*head, *_view(page, None))]
    room = max(page.rows - len(head) - 1, 0)
    body = _help() if page.ui.help else _view(page, room)
    blank = [Text()] * max(room - len(body), 0)
    full = [*head, *body[:room], *blank, _foot(page)]
    return [fit(line, page.width) for line in full[: page.rows]]


def _level(page: Page) -> list[Text]:
    at, ui = page.figures.level, page.ui
    level = at.level or "unknown"
    what = LEVELS.get(level, "no source tells the level")
    clock = f"{page.figures.at.astimezone(UTC):%H:%M:%S} UTC"
    right = f"PAUSED at {clock}" if ui.paused else f"{clock}, every {ui.interval_s:g} s"
    style = _LEVEL_STYLES.get(level, "bold")
    left = Text.assemble((level.upper(), style), " ", what)
    first = fit(left, max(page.width - len(right) - 1, 0))
    first.append(" ").append(right, "bold reverse" if ui.paused else "dim")
    return [first, Text(page.pen.dot.join(_remarks(page)), "dim")]


def _remarks(page: Page) -> list[str]:
    """Say since when and why, and what else is closed."""
    at, now = page.figures.level, page.figures.at
    remarks = []
    if at.since is not None:
        remarks.append(
            f"since {at.since.astimezone(UTC):%H:%M:%S} ({span((now - at.since).total_seconds())})"
        )
    if at.reason:
        remarks.append(REASONS.get(at.reason, at.reason))
    elif at.ordered:
        remarks.append(REASONS["operator"])
    if at.until is not None:
        remarks.append(f"until {at.until.astimezone(UTC):%H:%M:%S}")
    states = [("issuance", at.issuance), ("redemption", at.redemption)]
    remarks += [f"{name} paused" for name, state in states if state == "paused"]
    if at.admitted_per_s is not None:
        remarks.append(f"lets in {rate(at.admitted_per_s)}/s")
    if at.admit_ratio is not None:
        remarks.append(f"admits {share(at.admit_ratio)}")
    if at.retry_after_s:
        remarks.append(f"come back in {span(at.retry_after_s)}")
    remarks += [f"{name} open" for name, state in states if state == "open"]
    return remarks


def _trouble(page: Page) -> Text:
    found = page.figures.troubles
    if not found:
        return Text()
    more = f" (and {len(found) - 1} more: press 5)" if len(found) > 1 else ""
    return Text.assemble(("! ", "bold red"), (found[0], "red"), (more, "dim"))


def _foot(page: Page) -> Text:
    ui = page.ui
    if ui.typing:
        return Text.assemble(
            ("filter: ", "bold"), ui.filter, ("_", "blink"), ("  enter, escape", "dim")
        )
    line = Text()
    for place, view in enumerate(VIEWS, start=1):
        line.append(f"{place} ", "dim")
        line.append(view, "bold reverse" if view == ui.view and not ui.help else "")
        line.append("  ")
    if ui.filter:
        return line.append(f"/{ui.filter}", "yellow")
    return line.append("? help  q quit", "dim")


def _view(page: Page, rows: int | None) -> list[Text]:
    on = _canvas(page, page.width)
    match page.ui.view:
        case "refusals":
            parts = [tables.verdicts(on), tables.outcomes(on), tables.answers(on)]
        case "pipeline":
            left, right = _columns(page, [blocks.pipeline, blocks.stages]), tables.workers(on)
            parts = [left, _columns(page, [tables.troubled, tables.queues]), right]
        case "campaigns":
            whole = tables.campaigns(on, page.ui, None, items=True)
            parts = [whole, tables.budgets(on, page.ui)]
        case "sources":
            told = [Text(f"! {one}", "red") for one in page.figures.troubles]
            parts = [tables.sources(on), told, _columns(page, [blocks.dependencies])]
        case _:
            return _overview(page, rows)
    return scrolled(_stacked(parts), rows, page.ui.scroll, "up and down")


def _overview(page: Page, rows: int | None) -> list[Text]:
    wide = page.width >= _WIDE
    tall = rows is None or rows >= (_TALL_AND_WIDE if wide else _TALL)
    refused_rows = 100 if rows is None else max(_REFUSED, (rows - 20) // 2 if tall else 0)

    def refused(on: Canvas) -> list[Text]:
        return blocks.refused(on, refused_rows)

    drawn: list[blocks.Block] = [blocks.rates, blocks.waits]
    drawn += [blocks.pipeline, refused] if wide else [refused, blocks.pipeline]
    if tall:
        drawn += [blocks.stages, blocks.dependencies]
    upper = _columns(page, drawn)
    brief = [] if tall else [_brief(page)]
    room = None if rows is None else rows - len(upper) - len(brief) - 1
    on = _canvas(page, page.width)
    several = page.figures.campaigns
    fits = room is None or sum(1 + len(one.items) for one in several) < room
    lower = tables.campaigns(on, page.ui, room, items=fits or len(several) == 1)
    return [*_stacked([upper, lower]), *brief]


def _columns(page: Page, drawn: list[blocks.Block]) -> list[Text]:
    """Set blocks side by side, as many as there is width for; a blank line between their rows."""
    several = 3 if page.width >= _WIDE else 2 if page.width >= _NARROW else 1
    several = min(several, len(drawn))
    each = (page.width - GAP * (several - 1)) // several
    on = _canvas(page, each)
    rows = [drawn[at : at + several] for at in range(0, len(drawn), several)]
    return _stacked([beside([draw(on) for draw in row], [each] * len(row)) for row in rows])


def _stacked(parts: list[list[Text]]) -> list[Text]:
    found: list[Text] = []
    for part in filter(None, parts):
        found += [Text(), *part] if found else part
    return found


def _brief(page: Page) -> Text:
    """Say in one line what the third row of blocks says where it has room."""
    at, sources = page.figures.dependencies, page.figures.sources
    answering = sum(one.state == "answers" for one in sources)
    line = Text()
    for name, answers, latency_s, of in (
        ("PostgreSQL", at.postgres.up, at.postgres.probe_s, at.postgres.connections_ratio),
        ("Valkey", at.valkey.up, at.valkey.probe_s, at.valkey.memory_ratio),
    ):
        line.append(f"{name} ", "dim").append(blocks.up(answers), blocks.bad(answers))
        line.append(f" {span(latency_s)}, full {share(of)}{page.pen.dot}")
    return line.append(f"{answering} of {len(sources)} sources", "dim")


def _help() -> list[Text]:
    return [
        heading("KEYS AND WORDS"),
        *(Text.assemble((f"  {key:<16}", "bold"), told) for key, told in _HELP),
    ]


def _canvas(page: Page, width: int) -> Canvas:
    return Canvas(width, page.figures, page.history, page.ui.interval_s, page.pen)
