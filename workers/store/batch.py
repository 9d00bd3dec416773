"""One worker's transaction: claim, gather, apply. Round trips do not grow with the batch.

Locks are taken in the one global order: open_intents, (order rows), budgets, stock by sku, coupons
by id, user counters. Whatever may have been decided meanwhile is read after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, field

from workers.domain.intent import Intent, IntentBody, Kind
from workers.domain.movements import Movements, ledger_entries
from workers.domain.outcome import Outcome
from workers.domain.snapshot import Budget, Campaign, Coupon, CouponTerms, Item, Snapshot
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("batch")
_body = msgspec.json.Decoder(IntentBody).decode


class Claim(Struct, frozen=True):
    """Intents locked for this batch in arrival order, and the database's clock at that moment.

    `unreadable` says what is wrong with the bodies that this version cannot read; those intents are
    here with an empty body.
    """

    intents: tuple[Intent, ...]
    at: datetime | None
    unreadable: dict[UUID, str] = field(default_factory=dict)


class Deaths(Struct, frozen=True):
    """How many batches died with an intent in hand, and how many of those held it alone."""

    batches: int
    alone: int


def begin_and_claim(connection: Connection, hinted: Sequence[UUID], limit: int) -> Claim:
    """Open a transaction and lock the hinted intents, and the oldest others up to `limit` in all.

    A `limit` of 0 claims the hinted ones alone. One round trip.
    """
    with connection.pipeline():
        connection.execute("BEGIN")
        cursor = connection.execute(
            _SQL.claim_many, {"hinted": list(hinted), "limit": limit}, binary=True
        )
        rows = cursor.fetchall()
    unreadable: dict[UUID, str] = {}
    intents = [_intent(row, unreadable) for row in rows]
    intents.sort(key=lambda intent: (intent.accepted_at, intent.intent_id))
    return Claim(tuple(intents), rows[0][-1] if rows else None, unreadable)


def _intent(row: tuple[Any, ...], unreadable: dict[UUID, str]) -> Intent:
    intent_id, kind, gateway_id, user_id, campaign_id, accepted_at, text, _ = row
    try:
        body = _body(text)
    except msgspec.MsgspecError as error:
        body = IntentBody()
        unreadable[intent_id] = str(error)
    return Intent(
        intent_id=intent_id,
        kind=Kind(kind),
        gateway_id=gateway_id,
        user_id=user_id,
        campaign_id=campaign_id,
        accepted_at=accepted_at,
        body=body,
    )


def record_claim(
    connection: Connection, batch_id: UUID, worker: str, intent_ids: Sequence[UUID]
) -> dict[UUID, Deaths]:
    """Commit, on a connection of its own, that a batch has these intents in hand.

    Returns those which batches that did not end well had in hand before.
    """
    rows = connection.execute(
        _SQL.claim_record,
        {"batch_id": batch_id, "worker": worker, "intent_ids": list(intent_ids)},
        binary=True,
    )
    return {intent_id: Deaths(batches, alone) for intent_id, batches, alone in rows}


def forget_claims(connection: Connection, batch_ids: Sequence[UUID]) -> None:
    """Say that these batches ended, well or not: their intents are in nobody's hand."""
    connection.execute(_SQL.claim_forget, {"batch_ids": list(batch_ids)})


def gather(connection: Connection, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]:
    """Lock and read what these intents touch; return it with the clock read after the locks."""
    goods = sorted({(i.campaign_id, line.sku) for i in intents for line in i.body.lines})
    coupons = sorted({i.body.coupon_id for i in intents if i.body.coupon_id is not None})
    users = sorted({(i.campaign_id, i.user_id, i.kind.value) for i in intents})
    campaigns = sorted({i.campaign_id for i in intents})
    spending = sorted(
        {i.campaign_id for i in intents if i.body.coupon_id or i.kind is Kind.ISSUANCE}
    )
    with connection.pipeline():

        def ask(name: str, **parameters: object) -> Callable[[], list[tuple[Any, ...]]]:
            return connection.execute(_SQL[name], parameters, binary=True).fetchall

        terms = ask("campaigns_read", campaign_ids=campaigns)
        budgets = ask("budgets_lock", campaign_ids=spending)
        stock = ask(
            "stock_lock", campaign_ids=[c for c, _ in goods], skus=[sku for _, sku in goods]
        )
        held = ask("coupons_lock", coupon_ids=coupons)
        counters = ask(
            "counters_lock",
            campaign_ids=[c for c, _, _ in users],
            user_ids=[u for _, u, _ in users],
            kinds=[k for _, _, k in users],
        )
        redeemed = ask("redemptions_read", coupon_ids=coupons)
        clock = ask("clock_read")
        return (
            _snapshot(terms(), budgets(), stock(), held(), counters(), redeemed()),
            clock()[0][0],
        )


def _snapshot(
    terms: Iterable[tuple[Any, ...]],
    budgets: Iterable[tuple[Any, ...]],
    stock: Iterable[tuple[Any, ...]],
    coupons: Iterable[tuple[Any, ...]],
    counters: Iterable[tuple[Any, ...]],
    redeemed: Iterable[tuple[Any, ...]],
) -> Snapshot:
    used = {coupon_id for (coupon_id,) in redeemed}
    return Snapshot(
        campaigns={row[0]: campaign_of(row) for row in terms},
        budgets={
            campaign_id: Budget(budget=budget, reserved=reserved, spent=spent)
            for campaign_id, budget, reserved, spent in budgets
        },
        items={
            (campaign_id, sku): Item(
                price=price, merchant_id=merchant_id, merchant_paused=paused, available=available
            )
            for campaign_id, sku, price, merchant_id, paused, available in stock
        },
        coupons={
            coupon_id: Coupon(
                campaign_id=campaign_id,
                user_id=user_id,
                value=value,
                redeemed=coupon_id in used,
                expired=expired,
            )
            for coupon_id, campaign_id, user_id, value, expired in coupons
        },
        counters={
            (campaign_id, user_id, Kind(kind)): count
            for campaign_id, user_id, kind, count in counters
        },
    )


def campaign_of(row: tuple[Any, ...]) -> Campaign:
    """Read a campaign's terms from a row of `campaigns_read`."""
    (campaign_id, currency, starts_at, ends_at, orders_max, coupons_max, window_ms, *coupon) = row
    kind, amount, percent, minimum_total, skus, valid_from, valid_until = coupon
    return Campaign(
        campaign_id=campaign_id,
        currency=currency,
        starts_at=starts_at,
        ends_at=ends_at,
        orders_per_user_max=orders_max,
        coupons_per_user_max=coupons_max,
        payment_window_ms=window_ms,
        coupon=kind
        and CouponTerms(
            kind=kind,
            amount=amount,
            percent=percent or 0,
            minimum_total=minimum_total,
            skus=frozenset(skus),
            valid_from=valid_from,
            valid_until=valid_until,
        ),
    )


def apply_and_commit(
    connection: Connection,
    batch_id: UUID,
    outcomes: Sequence[Outcome],
    moved: Movements,
    decided_at: datetime,
    *,
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Write the outcomes of a batch and commit them; one round trip.

    Raises what the constraints say: the last word on stock, coupons, limits and budgets is theirs.
    """
    with connection.pipeline():
        apply(connection, batch_id, outcomes, moved, decided_at)
        before_commit()
        connection.execute("COMMIT")


def apply(
    connection: Connection,
    batch_id: UUID,
    outcomes: Sequence[Outcome],
    moved: Movements,
    decided_at: datetime,
) -> None:
    """Write the outcomes of a batch; to be called within a pipeline, and committed after it."""

    def tell(name: str, **parameters: object) -> None:
        connection.execute(_SQL[name], parameters)

    _write_sales(tell, batch_id, outcomes, decided_at)
    _write_coupons(tell, outcomes, decided_at)
    write_movements(connection, batch_id, moved)
    ids = [outcome.intent.intent_id for outcome in outcomes]
    tell(
        "outcomes_insert",
        intent_ids=ids,
        reasons=[outcome.refusal and outcome.refusal.value for outcome in outcomes],
        decided_at=decided_at,
    )
    tell("open_intents_close", intent_ids=ids)
    tell("claim_forget", batch_ids=[batch_id])


def _write_sales(
    tell: Callable[..., None], batch_id: UUID, outcomes: Sequence[Outcome], decided_at: datetime
) -> None:
    sold = [(outcome.intent, outcome.order) for outcome in outcomes if outcome.order]
    if not sold:
        return
    tell(
        "orders_insert",
        batch_id=batch_id,
        decided_at=decided_at,
        order_ids=[intent.intent_id for intent, _ in sold],
        user_ids=[intent.user_id for intent, _ in sold],
        campaign_ids=[intent.campaign_id for intent, _ in sold],
        statuses=[order.status.value for _, order in sold],
        totals=[order.total for _, order in sold],
        discounts=[order.discount for _, order in sold],
        currencies=[order.currency for _, order in sold],
        coupon_ids=[order.coupon_id for _, order in sold],
        deadlines=[order.payment_deadline for _, order in sold],
    )
    lines = [(intent.intent_id, line) for intent, order in sold for line in order.lines]
    tell(
        "order_lines_insert",
        order_ids=[order_id for order_id, _ in lines],
        skus=[line.sku for _, line in lines],
        quantities=[line.quantity for _, line in lines],
        unit_prices=[line.unit_price for _, line in lines],
    )
    redeemed = [(order.coupon_id, intent.intent_id) for intent, order in sold if order.coupon_id]
    if redeemed:
        tell(
            "redemptions_insert",
            decided_at=decided_at,
            coupon_ids=[coupon_id for coupon_id, _ in redeemed],
            order_ids=[order_id for _, order_id in redeemed],
        )


def _write_coupons(
    tell: Callable[..., None], outcomes: Sequence[Outcome], decided_at: datetime
) -> None:
    issued = [(outcome.intent, outcome.coupon) for outcome in outcomes if outcome.coupon]
    if issued:
        tell(
            "coupons_insert",
            decided_at=decided_at,
            coupon_ids=[intent.intent_id for intent, _ in issued],
            campaign_ids=[intent.campaign_id for intent, _ in issued],
            user_ids=[intent.user_id for intent, _ in issued],
            values=[coupon.value for _, coupon in issued],
        )


def write_movements(connection: Connection, batch_id: UUID, moved: Movements) -> None:
    """Move balances and enter the same movements in the ledger, in the order of the locks."""
    budgets = [(c, *delta) for c, delta in sorted(moved.budgets.items()) if any(delta)]
    if budgets:
        connection.execute(
            _SQL.budgets_move,
            {
                "campaign_ids": [campaign_id for campaign_id, _, _ in budgets],
                "reserved": [reserved for _, reserved, _ in budgets],
                "spent": [spent for _, _, spent in budgets],
            },
        )
    stock = sorted(moved.stock.items())
    if stock:
        connection.execute(
            _SQL.stock_move,
            {
                "campaign_ids": [campaign_id for (campaign_id, _), _ in stock],
                "skus": [sku for (_, sku), _ in stock],
                "available": [delta.available for _, delta in stock],
                "reserved": [delta.reserved for _, delta in stock],
                "sold": [delta.sold for _, delta in stock],
            },
        )
    counters = sorted((*key, step) for key, step in moved.counters.items() if step)
    if counters:
        # Rising counters may be a user's first; falling ones exist, and may not be inserted.
        rising = counters[0][-1] > 0
        connection.execute(
            _SQL.counters_add if rising else _SQL.counters_lower,
            {
                "campaign_ids": [campaign_id for campaign_id, _, _, _ in counters],
                "user_ids": [user_id for _, user_id, _, _ in counters],
                "kinds": [kind.value for _, _, kind, _ in counters],
                "steps": [step for _, _, _, step in counters],
            },
        )
    entries = ledger_entries(moved)
    if entries:
        connection.execute(
            _SQL.ledger_enter,
            {
                "batch_id": batch_id,
                "accounts": [account for account, _ in entries],
                "deltas": [delta for _, delta in entries],
            },
        )


def record_failure(
    connection: Connection,
    intent_id: UUID,
    error: str,
    *,
    counted: bool,
    pause_ms: int,
    failures_max: int,
) -> int:
    """Note that an intent failed alone, and keep it back; return its counted failures so far.

    It is kept back for `pause_ms`, doubled with each failure; not at all once `failures_max` is
    reached, for then it is to be quarantined.
    """
    row = connection.execute(
        _SQL.failure_record,
        {
            "intent_id": intent_id,
            "error": error,
            "counted": int(counted),
            "pause_ms": pause_ms,
            "failures_max": failures_max,
        },
    ).fetchone()
    return row[0] if row else 0


def record_quarantine(connection: Connection, intent_id: UUID, error: str, attempts: int) -> None:
    """List an intent that could not be processed; within the transaction that tells its outcome."""
    connection.execute(
        _SQL.quarantine_insert, {"intent_id": intent_id, "error": error, "attempts": attempts}
    )
