"""Limits: what a campaign may give away at most, and what a user may have at most."""

from __future__ import annotations

from collections import Counter

from deploy.chaos.checks.finding import Finding, Gathered, findings

_LIVING = ("confirmed", "awaiting_payment")


def limits_hold(gathered: Gathered) -> list[Finding]:
    """Nobody has more orders than allowed; coupons promised and discounts given fit the budget."""
    living = [order for order in gathered.tables.orders if order.status in _LIVING]
    orders = Counter(order.user for order in living)
    most = gathered.orders_per_user_max
    greedy = [f"{user} has {count} of {most}" for user, count in orders.items() if count > most]
    issued = sum(one.value for one in gathered.tables.coupons if one.status == "issued")
    given = issued + sum(order.discount for order in living)
    over = [f"{given} of {gathered.budget}"] if given > gathered.budget else []
    check = "limits hold"
    return [
        *findings(check, "I5", "users with more orders than they may have", greedy),
        *findings(check, "I5", "more is promised and given than the budget holds", over),
    ]
