"""The plan: which fault comes when. Pure: the same scenario, seed and duration make the same plan.

A longer duration only goes on where a shorter one ended, so a violation found late is found again by
its seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

MIXED: Final = 3  # scenarios whose faults overlap in a mix
MIX_WINDOW_S: Final = 15.0  # after it others are mixed

Range = tuple[float, float]


class Recurring(Struct, frozen=True, kw_only=True):
    """A kind of fault that comes again and again. Times in seconds; `amount` by the kind."""

    kind: str
    targets: tuple[str, ...] = ("",)  # each in its turn, in shuffled order
    every_s: Range
    for_s: Range = (0.0, 0.0)
    amount: Range = (0.0, 0.0)
    first_s: float = 0.8  # the load has begun by then
    times_max: int = 1_000_000


class Fault(Struct, frozen=True, kw_only=True):
    """One fault. `pick`, from 0 to 1, says which of several victims it is."""

    at_s: float
    kind: str
    target: str = ""
    for_s: float = 0.0
    amount: float = 0.0
    pick: float = 0.0


def plan(name: str, recurring: Sequence[Recurring], seed: int, duration_s: float) -> list[Fault]:
    """Return the faults of a scenario in the order of their times; all are over at `duration_s`."""
    found = [
        fault
        for n, one in enumerate(recurring)
        for fault in _recurring(one, Random(f"{name}/{n}/{seed}"), duration_s)
    ]
    return sorted(found, key=lambda fault: fault.at_s)


def mix(
    parts: Sequence[tuple[str, Sequence[Recurring]]], seed: int, duration_s: float
) -> list[Fault]:
    """Return the faults of three scenarios at a time, by seed; others after each window."""
    random = Random(f"mix/{seed}")
    found: list[Fault] = []
    begin_s = 0.0
    while begin_s < duration_s:
        length_s = min(MIX_WINDOW_S, duration_s - begin_s)
        for name, recurring in random.sample(parts, MIXED):
            part = plan(name, recurring, random.getrandbits(32), length_s)
            found += [replace(fault, at_s=begin_s + fault.at_s) for fault in part]
        begin_s += MIX_WINDOW_S
    return sorted(found, key=lambda fault: fault.at_s)


def _recurring(one: Recurring, random: Random, duration_s: float) -> Iterator[Fault]:
    at_s = one.first_s
    targets: list[str] = []
    for _ in range(one.times_max):
        if at_s >= duration_s:
            return
        if not targets:
            targets = random.sample(one.targets, len(one.targets))
        yield Fault(
            at_s=round(at_s, 3),
            kind=one.kind,
            target=targets.pop(),
            for_s=round(min(random.uniform(*one.for_s), duration_s - at_s), 3),
            amount=round(random.uniform(*one.amount), 3),
            pick=round(random.random(), 6),
        )
        at_s += random.uniform(*one.every_s)
