"""Webhooks: the sound receiver is told of every outcome, each event reads the same, in its order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.receivers import SOUND, Heard
from deploy.chaos.tables import IntentRow, Tables

_OUTCOMES: Final = ("committed", "refused")  # an intent's own events; what follows is its order's


def unheard(tables: Tables, heard: Sequence[Heard]) -> list[IntentRow]:
    """Return the decided intents whose outcome the sound receiver was not told of."""
    told = {(one.intent_id, one.event) for one in heard if one.receiver == SOUND}
    return [
        row
        for row in tables.intents
        if row.status in _OUTCOMES and (row.intent_id, row.status) not in told
    ]


def outcomes_are_heard(gathered: Gathered) -> list[Finding]:
    """Who answers well is told of each outcome, whoever else does not; nobody of another one."""
    if gathered.heard is None:
        return []
    decided = {row.intent_id: row.status for row in gathered.tables.intents}
    silent = [
        f"{row.intent_id} is {row.status}" for row in unheard(gathered.tables, gathered.heard)
    ]
    wrong = [
        f"{one.intent_id}: {one.receiver} was told {one.event}, and it is {decided.get(one.intent_id)}"
        for one in gathered.heard
        if one.event in _OUTCOMES and decided.get(one.intent_id) != one.event
    ]
    check = "outcomes are heard"
    return [
        *findings(check, "I1", "outcomes that the sound receiver was never told of", silent),
        *findings(check, "I8", "outcomes told by webhook that the tables contradict", wrong),
    ]


def events_read_the_same(gathered: Gathered) -> list[Finding]:
    """An event may come again, and be for several; its id and its words are the same each time."""
    bodies: defaultdict[str, set[str]] = defaultdict(set)
    kinds: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for one in gathered.heard or ():
        bodies[one.event_id].add(one.body)
        kinds[one.intent_id, one.event].add(one.event_id)
    check = "events read the same"
    return [
        *findings(
            check,
            "I8",
            "events that came with different words",
            (event_id for event_id, words in bodies.items() if len(words) > 1),
        ),
        *findings(
            check,
            "I2",
            "events of one intent that came under different ids",
            (f"{of}: {sorted(ids)}" for of, ids in kinds.items() if len(ids) > 1),
        ),
    ]


def events_come_in_order(gathered: Gathered) -> list[Finding]:
    """No receiver that takes an event is told of an order's end before it was told of the order."""
    first: dict[tuple[str, str], Heard] = {}
    early = []
    for one in gathered.heard or ():
        if one.receiver != SOUND:
            continue  # the others refuse, and are asked again later
        begun = first.setdefault((one.receiver, one.intent_id), one)
        if begun.event not in _OUTCOMES:
            early.append(f"{one.intent_id}: {one.receiver} was told {begun.event} first")
    return findings("events come in order", "I8", "told before what it follows", sorted({*early}))
