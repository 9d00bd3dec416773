"""Breaks a promise in this process, as CHAOS_MUTATION says. Python imports it at start by its name.

Only on the path of processes that `tidegate chaos --mutation` starts. What is to be broken is imported
where it is broken: every other process of Python on that path starts as it would.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

_SHARE: Final = 0.03


def receipt_before_commit() -> None:
    """Answer some with a receipt, and journal nothing."""
    from workers.store import journal

    append_many = journal.append_many

    def forgetful(
        connection: Any, entries: Iterable[journal.Entry], dispatch_after_ms: int
    ) -> dict[UUID, datetime]:
        every = list(entries)
        written = [one for one in every if random.random() >= _SHARE]
        times = append_many(connection, written, dispatch_after_ms) if written else {}
        lost = {one.intent_id for one in every} - {one.intent_id for one in written}
        return times | dict.fromkeys(lost, datetime.now(UTC))

    journal.append_many = forgetful


def false_no() -> None:
    """Say no to some, whose intents are journalled: last of all, or the journal's word would win."""
    from producer.answers import Accepted, Answer, NotAccepted, Posted
    from producer.intake import Intake

    submit = Intake.submit

    def denying(intake: Intake, batch: Sequence[Posted]) -> list[Answer]:
        return [
            NotAccepted("sold_out", final=True)
            if isinstance(answer, Accepted) and random.random() < _SHARE
            else answer
            for answer in submit(intake, batch)
        ]

    Intake.submit = denying  # type: ignore[assignment,method-assign]


def two_mouths() -> None:
    """Tell some who ask later another outcome."""
    from msgspec.structs import replace

    from workers.domain.outcome import Refusal
    from workers.store import resources

    read_many = resources.read_many

    def lying(connection: Any, intent_ids: Sequence[UUID]) -> dict[UUID, Any]:
        found = read_many(connection, intent_ids)
        for intent_id, resource in found.items():
            if resource.decided_at is not None and random.random() < _SHARE:
                found[intent_id] = replace(resource, refusal=Refusal.SOLD_OUT, order=None)
        return found

    resources.read_many = lying


def oversell() -> None:
    """Sell what is not there."""
    from workers.domain import decide

    decide._shortage = lambda cart, taken: None  # noqa: SLF001


def coupon_again() -> None:
    """Take a coupon that was taken."""
    from workers.domain import decide
    from workers.domain.outcome import Refusal

    refusal_of = vars(decide)["redemption_refusal"]

    def generous(*given: Any, **named: Any) -> Refusal | None:
        refusal = refusal_of(*given, **named)
        return None if refusal is Refusal.COUPON_ALREADY_REDEEMED else refusal

    vars(decide)["redemption_refusal"] = generous


_PATCHES: Final[dict[str, Callable[[], None]]] = {
    "receipt-before-commit": receipt_before_commit,
    "false-no": false_no,
    "two-mouths": two_mouths,
    "oversell": oversell,
    "coupon-again": coupon_again,
}

if os.environ.get("CHAOS_MUTATION") in _PATCHES:
    _PATCHES[os.environ["CHAOS_MUTATION"]]()
