"""Apply: what a batch has decided becomes rows, in two statements whatever its size.

The rows touched here were locked by `batch.gather`, or are new. What the constraints say is the last
word on stock, coupons, limits and budgets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from workers.domain.intent import Intent
from workers.domain.movements import Movements, ledger_entries
from workers.domain.outcome import Order, Outcome
from workers.domain.snapshot import CounterKey
from workers.store.arrays import bigints, texts, times, uuids, uuids_or_nulls
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("batch")


def apply_and_commit(
    connection: Connection,
    batch_id: UUID,
    outcomes: Sequence[Outcome],
    moved: Movements,
    decided_at: datetime,
    *,
    counted: Container[CounterKey],
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Write the outcomes of a batch and commit them; one round trip.

    `counted` are the counters that exist: those that `gather` found. Raises what the constraints say.
    """
    with connection.pipeline():
        apply(connection, batch_id, outcomes, moved, decided_at, counted=counted)
        before_commit()
        connection.execute("COMMIT")


def apply(
    connection: Connection,
    batch_id: UUID,
    outcomes: Sequence[Outcome],
    moved: Movements,
    decided_at: datetime,
    *,
    counted: Container[CounterKey],
) -> None:
    """Write the outcomes of a batch; to be called within a pipeline, and committed after it."""
    write_movements(connection, batch_id, moved, counted=counted)
    sold = [(outcome.intent, outcome.order) for outcome in outcomes if outcome.order]
    ids = uuids([outcome.intent.intent_id for outcome in outcomes])
    connection.execute(
        _SQL.outcomes_write,
        {
            "batch_id": batch_id,
            "decided_at": decided_at,
            "intent_ids": ids,
            "reasons": texts([outcome.refusal for outcome in outcomes]),
            "gateway_ids": texts([outcome.intent.gateway_id for outcome in outcomes]),
            **_orders(sold, ids if len(sold) == len(outcomes) else None),
            **_lines(sold),
            **_redemptions(sold),
            **_coupons(outcomes),
            **_tallies(outcomes),
        },
    )


def write_movements(
    connection: Connection, batch_id: UUID, moved: Movements, *, counted: Container[CounterKey]
) -> None:
    """Move balances and enter the same movements in the ledger; one statement.

    `counted` are the counters that exist. Whoever calls holds the locks: a counter that another
    transaction has begun meanwhile raises a violation of its key.
    """
    entries = ledger_entries(moved)
    steps = sorted((*key, step) for key, step in moved.counters.items() if step)
    if not entries and not steps:
        return
    budgets = [(c, *delta) for c, delta in moved.budgets.items() if any(delta)]
    stock = [(*key, *delta) for key, delta in moved.stock.items()]
    connection.execute(
        _SQL.movements_write,
        {
            "batch_id": batch_id,
            "accounts": texts([account for account, _ in entries]),
            "deltas": bigints([delta for _, delta in entries]),
            "budget_ids": texts([row[0] for row in budgets]),
            "budgets_reserved": bigints([row[1] for row in budgets]),
            "budgets_spent": bigints([row[2] for row in budgets]),
            "stock_ids": texts([row[0] for row in stock]),
            "skus": texts([row[1] for row in stock]),
            "available": bigints([row[2] for row in stock]),
            "reserved": bigints([row[3] for row in stock]),
            "sold": bigints([row[4] for row in stock]),
            **_counters("", [row for row in steps if row[:3] in counted]),
            **_counters("first_", [row for row in steps if row[:3] not in counted]),
        },
    )


def _counters(prefix: str, steps: Sequence[tuple[Any, ...]]) -> dict[str, object]:
    return {
        f"{prefix}campaign_ids": texts([row[0] for row in steps]),
        f"{prefix}user_ids": texts([row[1] for row in steps]),
        f"{prefix}kinds": texts([row[2] for row in steps]),
        f"{prefix}steps": bigints([row[3] for row in steps]),
    }


def _orders(sold: Sequence[tuple[Intent, Order]], ids: bytes | None) -> dict[str, object]:
    return {
        "order_ids": ids or uuids([intent.intent_id for intent, _ in sold]),
        "user_ids": texts([intent.user_id for intent, _ in sold]),
        "campaign_ids": texts([intent.campaign_id for intent, _ in sold]),
        "statuses": texts([order.status for _, order in sold]),
        "totals": bigints([order.total for _, order in sold]),
        "discounts": bigints([order.discount for _, order in sold]),
        "currencies": texts([order.currency for _, order in sold]),
        "coupon_ids": uuids_or_nulls([order.coupon_id for _, order in sold]),
        "deadlines": times([order.payment_deadline for _, order in sold]),
    }


def _lines(sold: Sequence[tuple[Intent, Order]]) -> dict[str, object]:
    lines = [line for _, order in sold for line in order.lines]
    return {
        "line_order_ids": uuids([intent.intent_id for intent, order in sold for _ in order.lines]),
        "skus": texts([line.sku for line in lines]),
        "quantities": bigints([line.quantity for line in lines]),
        "unit_prices": bigints([line.unit_price for line in lines]),
    }


def _redemptions(sold: Sequence[tuple[Intent, Order]]) -> dict[str, object]:
    redeemed = [(order.coupon_id, intent.intent_id) for intent, order in sold if order.coupon_id]
    return {
        "redeemed_ids": uuids([coupon_id for coupon_id, _ in redeemed]),
        "redeeming_ids": uuids([order_id for _, order_id in redeemed]),
    }


def _coupons(outcomes: Sequence[Outcome]) -> dict[str, object]:
    issued = [(outcome.intent, outcome.coupon) for outcome in outcomes if outcome.coupon]
    return {
        "issued_ids": uuids([intent.intent_id for intent, _ in issued]),
        "issued_campaign_ids": texts([intent.campaign_id for intent, _ in issued]),
        "issued_user_ids": texts([intent.user_id for intent, _ in issued]),
        "issued_values": bigints([coupon.value for _, coupon in issued]),
    }


def _tallies(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Count a batch by campaign, kind and end; and the coupons that it issued or used."""
    intents: Counter[tuple[str, str, str]] = Counter()
    coupons: Counter[tuple[str, str, str]] = Counter()
    for outcome in outcomes:
        intent, order = outcome.intent, outcome.order
        key = (intent.campaign_id, intent.kind.value, outcome.refusal or "")
        intents[key] += 1
        if outcome.coupon or (order and order.coupon_id):
            coupons[key] += 1
    keys = list(intents)
    return {
        "tally_campaign_ids": texts([campaign_id for campaign_id, _, _ in keys]),
        "tally_kinds": texts([kind for _, kind, _ in keys]),
        "tally_reasons": texts([reason for _, _, reason in keys]),
        "tally_intents": bigints([intents[key] for key in keys]),
        "tally_coupons": bigints([coupons[key] for key in keys]),
    }
