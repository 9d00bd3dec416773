"""Tables: campaigns, verdicts, workers and sources, as lines as wide as the screen. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.cells import set_cell_size
from rich.text import Text

from deploy.load.words import plain
from deploy.top.blocks import Canvas, bad, up
from deploy.top.figures import CampaignFigures, Flow, Number, SourceFigures, Units
from deploy.top.keys import Ui
from deploy.top.pen import heading, row, scrolled
from deploy.top.words import LAYERS, count, rate, share, span

_OURS: Final = "tidegate."  # what our queues' names begin with
_SCARCE: Final = 0.10
_LEFT: Final = 22  # columns of what is left, in words
_BAR_MAX: Final = 10
_BAR_MIN: Final = 6
_ROOMY: Final = 100  # from which width on bars are long
_NAME_MIN, _NAME_MAX = 14, 40
_STYLES: Final = {"answers": "green", "away": "bold red", "unheard": "yellow"}


def campaigns(on: Canvas, ui: Ui, rows: int | None, *, items: bool) -> list[Text]:
    """Draw campaigns: what is left of stock and budget; their items, if there is room or a wish."""
    chosen = ordered(on.figures.campaigns, ui)
    width = min(max(on.width - _LEFT - 33 - _bar(on), _NAME_MIN), _NAME_MAX)
    lines = []
    for one in chosen:
        lines.append(_campaign(on, one, width))
        if items:
            lines += [_item(on, sku, units, width) for sku, units in _items(one, ui)]
    remark = f"filter {ui.filter!r}" if ui.filter or ui.typing else f"{ui.sort} first"
    name = set_cell_size("CAMPAIGNS", width)
    title = heading(
        name,
        f" {'stock left':<{_bar(on) + _LEFT}} {'budget':>7} {'issued':>7} {'redeemed':>8} {'1/s':>6}",
    )
    if not lines:
        why = "none that matches" if on.figures.campaigns else "nobody tells of any"
        return [title, Text(why, "dim")]
    return [title, *scrolled(lines, None if rows is None else rows - 1, 0, remark)]


def ordered(campaigns_: Sequence[CampaignFigures], ui: Ui) -> list[CampaignFigures]:
    """Choose and order campaigns as whoever looks wishes."""
    wanted = ui.filter.casefold()
    chosen = [
        one
        for one in campaigns_
        if any(wanted in name.casefold() for name in (one.campaign, *one.items))
    ]
    by: dict[str, Callable[[CampaignFigures], tuple[float, str]]] = {
        "scarcest": lambda one: (_scarcity(one), one.campaign),
        "busiest": lambda one: (-(one.committed.per_s or 0.0), one.campaign),
        "name": lambda one: (0.0, one.campaign),
    }
    return sorted(chosen, key=by[ui.sort])


def _items(one: CampaignFigures, ui: Ui) -> list[tuple[str, Units]]:
    """List a campaign's items; those the filter means, if it means items."""
    wanted = ui.filter.casefold()
    found = [item for item in one.items.items() if wanted in item[0].casefold()]
    if wanted in one.campaign.casefold():
        found = list(one.items.items())
    if ui.sort == "name":
        return found
    return sorted(found, key=lambda item: (_left(item[1].available, item[1].initial), item[0]))


def _scarcity(one: CampaignFigures) -> float:
    return min((_left(item.available, item.initial) for item in one.items.values()), default=2.0)


def _left(available: Number, initial: Number) -> float:
    """Return the share that is left; what nobody knows comes last."""
    return 2.0 if available is None or not initial else available / initial


def _campaign(on: Canvas, one: CampaignFigures, width: int) -> Text:
    everywhere = on.figures.level.issuance == "paused"  # said once, above
    paused = " (issuance paused)" if one.issuance == "paused" and not everywhere else ""
    budget = _ratio(one.budget.available, one.budget.initial)
    line = _stock(on, set_cell_size(one.campaign + paused, width), one.stock, "bold")
    line.append(f" {share(budget):>7}", "red" if budget is not None and budget <= 0 else "")
    line.append(f" {count(one.issued.total):>7} {count(one.redeemed.total):>8}")
    line.append(f" {rate(one.committed.per_s):>6}", "green")
    return line


def _item(on: Canvas, sku: str, units: Units, width: int) -> Text:
    line = _stock(on, set_cell_size(f"  {sku}", width), units, "")
    remark = [
        f"sold {count(units.sold)}" if units.sold is not None else "",
        f"unpaid {count(units.reserved)}" if units.reserved else "",
    ]
    return line.append("  " + ", ".join(filter(None, remark)), "dim")


def _stock(on: Canvas, name: str, units: Units, style: str) -> Text:
    left = _ratio(units.available, units.initial)
    colour = "" if left is None or left > _SCARCE else "yellow" if left > 0 else "red"
    told = "" if units.available is None else f"{count(units.available)} of {count(units.initial)}"
    return Text.assemble(
        (name, style),
        " ",
        (on.pen.bar(left, _bar(on)), colour or "green"),
        (f" {'sold out' if left == 0 else share(left):>4} {told}"[:_LEFT].ljust(_LEFT), colour),
    )


def _bar(on: Canvas) -> int:
    return _BAR_MAX if on.width >= _ROOMY else _BAR_MIN


def _ratio(available: Number, initial: Number) -> Number:
    return None if available is None or not initial else available / initial


def budgets(on: Canvas, ui: Ui) -> list[Text]:
    """Draw the money of each campaign."""
    lines = []
    for one in ordered(on.figures.campaigns, ui):
        if (at := one.budget).initial is None:
            continue
        name = set_cell_size(one.campaign, 22)
        told = f"{count(at.available)} left of {count(at.initial)} {at.currency}"
        held = f"{count(at.spent)} spent, {count(at.reserved)} in coupons"
        lines.append(Text.assemble((name, "dim"), f" {told}", (f", {held}", "dim")))
    return [heading("BUDGETS", "  in minor units"), *lines] if lines else []


def verdicts(on: Canvas) -> list[Text]:
    """Draw the gate's verdicts a second, by class and by what bound."""
    at = on.figures.refusals
    classes = list(dict.fromkeys([*at.admitted, *(one.class_ for one in at.gate)]))
    by = {(one.class_, one.layer): Flow(one.total, one.per_s) for one in at.gate}
    layers = [layer for layer in LAYERS if any((one, layer) in by for one in classes)]
    cells = {("admitted", one): at.admitted.get(one, Flow()) for one in classes}
    cells |= {(layer, one): by.get((one, layer), Flow()) for layer in layers for one in classes}
    title = heading(f"{'AT THE GATE':<26}", "".join(f"{one:>13}" for one in classes))
    if not classes:
        return [title, Text("no verdicts are shown", "dim")]
    return [
        title,
        *(
            Text.assemble(
                (f"{LAYERS.get(layer, layer):<26}", "green" if layer == "admitted" else "dim"),
                *(f"{_both(cells[layer, one]):>13}" for one in classes),
            )
            for layer in ("admitted", *layers)
        ),
    ]


def _both(flow: Flow) -> str:
    return "" if flow.total is None else f"{rate(flow.per_s)} {count(flow.total):>6}"


def outcomes(on: Canvas) -> list[Text]:
    """Draw refusals after a receipt, in plain words."""
    at = on.figures.refusals
    lines = [_counted(plain(one.reason), Flow(one.total, one.per_s)) for one in at.outcomes]
    title = heading(f"{'AFTER A RECEIPT':<50}", f"{'a second':>10}{'total':>10}")
    return [title, *(lines or [Text("nobody", "dim")])]


def answers(on: Canvas) -> list[Text]:
    """Draw the intake's answers, and the windows in time."""
    at = on.figures.refusals
    title = heading(f"{'ANSWERS OF THE INTAKE':<50}", f"{'a second':>10}{'total':>10}")
    lines = [_counted(word.replace("_", " "), flow) for word, flow in at.answers.items()]
    lines += [_counted(f"appointment {fate}", flow) for fate, flow in at.appointments.items()]
    return [title, *(lines or [Text("no answers are shown", "dim")])]


def _counted(name: str, flow: Flow) -> Text:
    return Text.assemble(
        (f"{name:<50}", "dim"), f"{rate(flow.per_s):>10}", (f"{count(flow.total):>10}", "dim")
    )


def workers(on: Canvas) -> list[Text]:
    """Draw every worker."""
    title = heading(f"{'WORKERS':<20}", f"{'':<6}{'tasks':>7}{'batches/s':>11}{'intents/s':>11}")
    lines = [
        Text.assemble(
            (set_cell_size(one.name, 20), "dim"),
            (f"{up(one.up):<6}", bad(one.up)),
            f"{count(one.active):>7}{rate(one.batches_per_s):>11}{rate(one.intents_per_s):>11}",
        )
        for one in on.figures.pipeline.workers
    ]
    return [title, *(lines or [Text("none is known", "dim")])]


def troubled(on: Canvas) -> list[Text]:
    """Draw what went wrong on the way, and what was mended."""
    at = on.figures.pipeline
    return [
        heading("ON THE WAY", f"{'a second':>12}"),
        *(
            row(name, rate(flow.per_s), Text(f"{count(flow.total)} {what}", "dim"))
            for name, flow, what in (
                ("contentions", at.contentions, "begun again"),
                ("failures", at.failures, "in all"),
                ("faults", at.faults, "put off"),
                ("redispatched", at.redispatched, "repeated"),
            )
        ),
        row("quarantined", count(at.quarantined), Text("intents", "dim")),
    ]


def queues(on: Canvas) -> list[Text]:
    """Draw what waits in each queue."""
    at = on.figures.pipeline
    lines = [row("of the intake", count(at.intake_waiting), Text("for a lane", "dim"))]
    lines += [row(name.removeprefix(_OURS)[:13], count(n)) for name, n in sorted(at.queues.items())]
    return [heading("QUEUES"), *lines]


def sources(on: Canvas) -> list[Text]:
    """Draw who says all this."""
    title = heading(f"{'SOURCES':<20}", f"{'':<9}{'age':>8}{'up for':>9}  version    address")
    return [title, *(_source(one) for one in on.figures.sources)]


def _source(one: SourceFigures) -> Text:
    return Text.assemble(
        (set_cell_size(one.name, 20), "dim"),
        (f"{one.state:<9}", _STYLES.get(one.state, "")),
        f"{span(one.age_s):>8}{span(one.up_s):>9}  {one.version or '-':<10} ",
        (one.error or one.url.removeprefix("http://"), "red" if one.error else "dim"),
    )
