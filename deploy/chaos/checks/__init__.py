"""The checks: pure functions over what was gathered, each returning findings with evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from deploy.chaos.checks import (
    bank,
    bounds,
    limits,
    promises,
    reads,
    recovery,
    storms,
    told,
    uniqueness,
    webhooks,
)
from deploy.chaos.checks.finding import Finding, Gathered

Check = Callable[[Gathered], list[Finding]]

CHECKS: Final[Sequence[Check]] = (
    promises.receipts_come_out,
    promises.noes_never_commit,
    promises.receipts_are_not_denied,
    promises.unknown_at_most_once,
    promises.orders_were_attempted,
    promises.poison_is_told,
    reads.no_receipt_is_lost,
    told.outcomes_never_change,
    told.outcomes_are_the_tables,
    uniqueness.one_key_one_intent,
    uniqueness.coupons_at_most_once,
    uniqueness.payments_at_most_once,
    bank.accounts_add_up,
    bank.samples_add_up,
    bank.sold_is_ordered,
    limits.limits_hold,
    bounds.samples_within_bounds,
    bounds.sold_out_exactly,
    webhooks.outcomes_are_heard,
    webhooks.events_read_the_same,
    webhooks.events_come_in_order,
    storms.served_as_before,
    recovery.drained_and_serving,
    recovery.nothing_grows,
    recovery.nothing_stays_in_flight,
    recovery.something_was_proven,
    recovery.audit_is_clean,
)


def check(gathered: Gathered) -> list[Finding]:
    """Run every check."""
    return [finding for one in CHECKS for finding in one(gathered)]
