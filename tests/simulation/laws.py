"""What must be true of a simulated story when it is over: nothing lost, doubled, stranded or false."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

IN_FLIGHT_MAX = 40


def broken_by(pipeline: Any) -> list[str]:
    """Return what went against the laws."""
    found = [*pipeline.faults, *pipeline.database.broken, *pipeline.crowd.faults()]
    for law in (_decided, _told_true, _counted, _gate_knows, _bounded, _blamed):
        found += law(pipeline)
    return found


def _decided(pipeline: Any) -> Iterator[str]:
    """Whatever has a receipt has its outcome, but for what nobody can decide."""
    database = pipeline.database
    left = [one for one in database.open if database.intents[one].user_id not in pipeline.poison]
    if left:
        yield f"{len(left)} of {len(database.intents)} are open at the end"
    decided = database.outcomes.keys() | database.open.keys()
    if decided != database.intents.keys() or database.outcomes.keys() & database.open.keys():
        yield "what is journalled is neither open nor decided, or both"


def _told_true(pipeline: Any) -> Iterator[str]:
    """What was announced is what was committed, however often it was told."""
    outcomes = pipeline.database.outcomes
    for one, words in pipeline.told.items():
        truth = outcomes[one][0].refusal if one in outcomes else "nothing"
        if words != {truth}:
            yield f"{one} was told as {words}, and is {truth}"


def _counted(pipeline: Any) -> Iterator[str]:
    """Units are neither made nor lost, and all that are gone are in orders."""
    database = pipeline.database
    sold: Counter[str] = Counter()
    for outcome, _ in database.outcomes.values():
        for line in outcome.order.lines if outcome.order else ():
            sold[line.sku] += line.quantity
    for sku, (available, reserved, paid, _) in database.stock.items():
        if available < 0 or available + reserved + paid != database.initial[sku]:
            yield f"{sku}: {available}, {reserved}, {paid} of {database.initial[sku]}"
        if reserved + paid != sold[sku]:
            yield f"{sku}: {reserved + paid} taken, {sold[sku]} in orders"


def _gate_knows(pipeline: Any) -> Iterator[str]:
    """The gate has found its memory again, and holds nothing for nobody."""
    database, server = pipeline.database, pipeline.server
    if not server.reconciled:
        yield "the gate is not reconciled at the end"
    if server.in_flight != {one.bytes for one in database.open}:
        yield f"{len(server.in_flight)} in flight at the end, {len(database.open)} open"
    held: Counter[str] = Counter()
    for units in server.units.values():
        held.update(units)
    if server.units.keys() - server.in_flight or server.ahead != held:
        yield f"units are held by nobody: {dict(server.ahead)}, {dict(held)}"


def _bounded(pipeline: Any) -> Iterator[str]:
    """What is open stays within its bound, but for what was on its way when the gate forgot."""
    if not pipeline.forgot and pipeline.open_max > IN_FLIGHT_MAX:
        yield f"{pipeline.open_max} were open at once, {IN_FLIGHT_MAX} is the bound"


def _blamed(pipeline: Any) -> Iterator[str]:
    """Nobody is quarantined for what others did."""
    database = pipeline.database
    for one in database.quarantined:
        if database.intents[one].user_id not in pipeline.poison | pipeline.killers:
            yield f"{one} is quarantined for what others did"
