"""Told once: whoever is told an outcome, by whatever way, is told the same for ever."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.chaos.answers import spell_order
from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.history import Entry


def outcomes_never_change(gathered: Gathered) -> list[Finding]:
    """All that was told of one intent's outcome is the same; and once told, never `undecided`."""
    first: dict[str, Entry] = {}
    began: dict[int, float] = {}
    changed, taken_back = [], []
    for entry in gathered.history:
        if entry.phase == "invoke":
            began[entry.call] = entry.at
            continue
        if entry.phase != "ok" or not entry.intent_id or entry.op == "rebody":
            continue
        told = first.get(entry.intent_id)
        if entry.outcome:
            first.setdefault(entry.intent_id, entry)
            if told is not None and told.outcome != entry.outcome:
                changed.append(f"{entry.intent_id}: {told.outcome}, then {entry.outcome}")
        elif told is not None and began.get(entry.call, 0.0) > told.at:
            taken_back.append(f"{entry.intent_id}: {told.outcome}, then undecided")
    check = "outcomes never change"
    return [
        *findings(check, "I8", "outcomes that were told in two ways", changed),
        *findings(check, "I8", "outcomes that were told, and taken back", taken_back),
    ]


def outcomes_are_the_tables(gathered: Gathered) -> list[Finding]:
    """What was told is what the tables say in the end."""
    orders = {order.intent_id: order for order in gathered.tables.orders}
    standing: dict[str, str] = {}
    for row in gathered.tables.intents:
        order = orders.get(row.intent_id)
        if row.status == "refused":
            standing[row.intent_id] = f"refused {row.reason}"
        elif row.status == "committed" and order is not None:
            standing[row.intent_id] = spell_order(order.total, order.discount, order.payable)
        elif row.status == "committed":
            standing[row.intent_id] = "committed coupon"
    wrong = [
        f"{intent_id}: told {told}, and the tables say {standing[intent_id]}"
        for intent_id, told in _told(gathered)
        if intent_id in standing and not told.startswith(standing[intent_id])
    ]
    ours = {entry.intent_id for entry in gathered.history if entry.op == "post"}
    unheard = [
        f"{intent_id}: told {told}, and has no outcome"
        for intent_id, told in _told(gathered)
        if intent_id not in standing and intent_id in ours
    ]
    check = "outcomes are the tables"
    return [
        *findings(check, "I8", "outcomes told that the tables contradict", wrong),
        *findings(check, "I8", "outcomes told of what has none", unheard),
    ]


def _told(gathered: Gathered) -> Iterator[tuple[str, str]]:
    told = {(e.intent_id, e.outcome) for e in gathered.history if e.phase == "ok" and e.outcome}
    yield from sorted(told)
