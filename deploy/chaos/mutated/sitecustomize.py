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
_PLENTY: Final = 1_000_000_000_000  # minor units


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


def never_looked_up() -> None:
    """Let the gate's no stand, whatever the journal knows."""
    from producer.intake import Intake

    look_up = Intake._look_up  # noqa: SLF001

    def rash(intake: Intake, unanswered: list[Any], deadline: float) -> None:
        look_up(intake, [one for one in unanswered if one.answer is None], deadline)

    Intake._look_up = rash  # type: ignore[assignment,method-assign]  # noqa: SLF001


def never_reconciled() -> None:
    """Find everything that is in flight too young to be judged."""
    from workers.contract.gate_memory import Memory

    reconcile = Memory.reconcile

    def lenient(memory: Memory, open_ids: Any, open_count: Any, grace_ms: int) -> Any:
        return reconcile(memory, open_ids, open_count, 1_000 * grace_ms)

    Memory.reconcile = lenient  # type: ignore[assignment,method-assign]


def limit_unchecked() -> None:
    """Count no order of earlier batches."""
    _decide_from(lambda snapshot: {"counters": dict.fromkeys(snapshot.counters, 0)})


def budget_unchecked() -> None:
    """Promise coupons that the budget does not hold, and let the gate ask for no room in it."""
    from msgspec.structs import replace

    from producer.admitting import Admitting

    _decide_from(
        lambda snapshot: {
            "budgets": {
                name: replace(one, budget=_PLENTY) for name, one in snapshot.budgets.items()
            }
        }
    )
    candidates = Admitting._candidates  # noqa: SLF001

    def unheld(admitting: Admitting, asked: Any, rules: Any) -> Any:
        return candidates(admitting, asked, replace(rules, coupon_values={}))

    Admitting._candidates = unheld  # type: ignore[assignment,method-assign]  # noqa: SLF001


def ack_before_commit() -> None:
    """Acknowledge a hint as its batch begins: Celery's own way, unless it is told otherwise."""
    from workers.contract import celery_app

    make_app = celery_app.make_app

    def hasty(settings: Any) -> Any:
        app = make_app(settings)
        app.conf.task_acks_late = False
        return app

    celery_app.make_app = hasty


def _decide_from(changed: Callable[[Any], dict[str, Any]]) -> None:
    """Let batches be decided from another snapshot than the one that was gathered."""
    from msgspec.structs import replace

    from workers.domain import decide

    init = decide._Taken.__init__  # noqa: SLF001

    def from_another(taken: Any, snapshot: Any) -> None:
        init(taken, replace(snapshot, **changed(snapshot)))

    decide._Taken.__init__ = from_another  # type: ignore[assignment,method-assign]  # noqa: SLF001


_PATCHES: Final[dict[str, Callable[[], None]]] = {
    "receipt-before-commit": receipt_before_commit,
    "false-no": false_no,
    "two-mouths": two_mouths,
    "oversell": oversell,
    "coupon-again": coupon_again,
    "never-looked-up": never_looked_up,
    "never-reconciled": never_reconciled,
    "limit-unchecked": limit_unchecked,
    "budget-unchecked": budget_unchecked,
    "ack-before-commit": ack_before_commit,
}

if os.environ.get("CHAOS_MUTATION") in _PATCHES:
    _PATCHES[os.environ["CHAOS_MUTATION"]]()
