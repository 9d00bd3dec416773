"""Mutations: deliberate breakages of a promise, each of which must turn the verdict red.

They show that the checkers see: a verdict that stays clean under a mutation means nothing when it is
clean without one. A mutation is SQL, code in `mutated/sitecustomize.py`, a process left out, or two
of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, LiteralString

from msgspec import Struct

from workers.store.sql import queries

_SQL: Final = queries("mutations")
_CODE: Final = Path(__file__).with_name("mutated")


class Mutation(Struct, frozen=True, kw_only=True):
    """One breakage. `breaks`: at least one of these invariants must be found broken."""

    name: str
    line: str
    breaks: tuple[str, ...]
    scenario: str
    statements: LiteralString = ""
    without: str = ""  # a role that is not started

    @property
    def environ(self) -> dict[str, str]:
        """What every process of ours is started with."""
        return {"CHAOS_MUTATION": self.name, "PYTHONPATH": str(_CODE)}


_MUTATIONS: Final = (
    Mutation(
        name="receipt-before-commit",
        line="some receipts are given for what was never journalled",
        breaks=("I1",),
        scenario="children",
    ),
    Mutation(
        name="lost-open-intents",
        line="some journalled intents are never opened",
        breaks=("I1", "I10"),
        scenario="children",
        statements=_SQL.lost_open_intents,
    ),
    Mutation(
        name="no-redispatcher",
        line="nobody looks in the journal for what nobody hinted at",
        breaks=("I10",),
        scenario="blackout",
        without="redispatcher",
    ),
    Mutation(
        name="ack-before-commit",
        line="a hint is acknowledged before its batch is committed, and nobody looks for lost ones",
        breaks=("I1", "I10"),
        scenario="hints-in-hand",
    ),
    Mutation(
        name="never-reconciled",
        line="what died while in flight stays in flight for the gate",
        breaks=("I12",),
        scenario="failpoints-kill",
    ),
    Mutation(
        name="never-looked-up",
        line="whom the gate refuses is not looked up in the journal",
        breaks=("I8",),
        scenario="valkey-stalls",
    ),
    Mutation(
        name="outcome-overwritten",
        line="some outcomes become others",
        breaks=("I8",),
        scenario="children",
        statements=_SQL.outcome_overwritten,
    ),
    Mutation(
        name="limit-unchecked",
        line="nobody looks at users' limits, and no constraint does",
        breaks=("I5",),
        scenario="children",
        statements=_SQL.limit_unchecked,
    ),
    Mutation(
        name="budget-unchecked",
        line="nobody looks whether a coupon fits into the budget, and no constraint does",
        breaks=("I5",),
        scenario="children",
        statements=_SQL.budget_unchecked,
    ),
    Mutation(
        name="keys-not-unique",
        line="an idempotency key may be bound twice",
        breaks=("I2",),
        scenario="children",
        statements=_SQL.keys_not_unique,
    ),
    Mutation(
        name="oversell",
        line="nobody looks whether there is stock, and no constraint does",
        breaks=("I4",),
        scenario="sell-out",
        statements=_SQL.oversell,
    ),
    Mutation(
        name="taken-twice",
        line="each unit sold is taken from stock twice",
        breaks=("I7",),
        scenario="children",
        statements=_SQL.taken_twice,
    ),
    Mutation(
        name="ledger-torn",
        line="some movements are missing in the ledger",
        breaks=("I7",),
        scenario="children",
        statements=_SQL.ledger_torn,
    ),
    Mutation(
        name="coupon-again",
        line="a coupon may be redeemed again",
        breaks=("I6",),
        scenario="children",
        statements=_SQL.coupon_again,
    ),
    Mutation(
        name="two-mouths",
        line="some who ask again are told another outcome",
        breaks=("I8",),
        scenario="children",
    ),
    Mutation(
        name="false-no",
        line="some are told no, and their intents are journalled all the same",
        breaks=("I11",),
        scenario="children",
    ),
)

MUTATIONS: Final = {one.name: one for one in _MUTATIONS}
