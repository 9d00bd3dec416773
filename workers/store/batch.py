"""One worker's transaction: claim and gather; `applying` writes what was decided.

Locks are taken in the one global order: open_intents, (order rows), budgets, stock by sku, user
counters. Whatever may have been decided meanwhile is read after them. Coupons are locked by their
campaign's budget: whoever changes one of them or who holds it has that first. Round trips and
statements do not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct, field

from workers.domain.intent import Intent, IntentBody, Kind
from workers.domain.snapshot import Budget, Campaign, Coupon, CouponTerms, Item, Snapshot
from workers.store.arrays import texts, uuids
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("batch")
_NO_COUPON: Final = UUID(int=0)
_body = msgspec.json.Decoder(IntentBody).decode
_KINDS = {kind.value: kind for kind in Kind}  # asking the enum takes ten times as long


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


def begin_and_claim(
    connection: Connection, hinted: Sequence[UUID], limit: int, since: UUID
) -> Claim:
    """Open a transaction and lock the hinted intents, and the oldest others up to `limit` in all.

    The others are looked for from the id `since` on. A `limit` of 0 claims the hinted ones alone.
    One round trip.
    """
    with connection.pipeline():
        connection.execute("BEGIN")
        cursor = connection.execute(
            _SQL.claim_many,
            {"hinted": uuids(hinted), "limit": limit, "since": since},
            binary=True,
        )
        rows = cursor.fetchall()
    unreadable: dict[UUID, str] = {}
    intents = [_intent(row, unreadable) for row in rows]
    intents.sort(key=_arrival)
    return Claim(tuple(intents), rows[0][-1] if rows else None, unreadable)


def _arrival(intent: Intent) -> tuple[datetime, int]:
    return intent.accepted_at, intent.intent_id.int


def _intent(row: tuple[Any, ...], unreadable: dict[UUID, str]) -> Intent:
    intent_id, kind, gateway_id, user_id, campaign_id, accepted_at, text, _ = row
    try:
        body = _body(text)
    except msgspec.MsgspecError as error:
        body = IntentBody()
        unreadable[intent_id] = str(error)
    return Intent(
        intent_id=intent_id,
        kind=_KINDS[kind],
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
        {"batch_id": batch_id, "worker": worker, "intent_ids": uuids(intent_ids)},
        binary=True,
    )
    return {intent_id: Deaths(batches, alone) for intent_id, batches, alone in rows}


def forget_claims(connection: Connection, batch_ids: Sequence[UUID]) -> None:
    """Say that these batches ended, well or not: their intents are in nobody's hand."""
    connection.execute(_SQL.claim_forget, {"batch_ids": uuids(batch_ids)})


def gather(connection: Connection, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]:
    """Lock and read what these intents touch; return it with the clock read after the locks."""
    goods = {(i.campaign_id, line.sku) for i in intents for line in i.body.lines}
    # A forged code asks for a coupon that nobody has, so that finding it forged takes as long.
    redeeming = [i for i in intents if i.body.coupon_id is not None or i.body.coupon_forged]
    coupons = [i.body.coupon_id or _NO_COUPON for i in redeeming]
    campaigns = {i.campaign_id for i in intents}
    spending = {i.campaign_id for i in redeeming}
    spending |= {i.campaign_id for i in intents if i.kind is Kind.ISSUANCE}
    with connection.pipeline():

        def ask(name: str, **parameters: object) -> Callable[[], list[tuple[Any, ...]]]:
            return connection.execute(_SQL[name], parameters, binary=True).fetchall

        budgets = ask("budgets_lock", campaign_ids=texts(spending)) if spending else _nothing
        stock = (
            ask(
                "stock_lock",
                campaign_ids=texts([campaign_id for campaign_id, _ in goods]),
                skus=texts([sku for _, sku in goods]),
            )
            if goods
            else _nothing
        )
        counters = ask(
            "counters_lock",
            campaign_ids=texts([i.campaign_id for i in intents]),
            user_ids=texts([i.user_id for i in intents]),
            kinds=texts([i.kind for i in intents]),
        )
        held = ask("coupons_read", coupon_ids=uuids(coupons)) if coupons else _nothing
        terms = ask("terms_read", campaign_ids=texts(campaigns))()
        return _snapshot(terms, budgets(), stock(), held(), counters()), terms[0][0]


def _nothing() -> list[tuple[Any, ...]]:
    return []


def _snapshot(
    terms: Iterable[tuple[Any, ...]],
    budgets: Iterable[tuple[Any, ...]],
    stock: Iterable[tuple[Any, ...]],
    coupons: Iterable[tuple[Any, ...]],
    counters: Iterable[tuple[Any, ...]],
) -> Snapshot:
    return Snapshot(
        campaigns={row[1]: campaign_of(row[1:]) for row in terms if row[1] is not None},
        budgets={
            campaign_id: Budget(budget=budget, reserved=reserved, spent=spent, version=version)
            for campaign_id, budget, reserved, spent, version in budgets
        },
        items={
            (campaign_id, sku): Item(
                price=price,
                merchant_id=merchant_id,
                merchant_paused=paused,
                available=available,
                reserved=reserved,
                version=version,
            )
            for campaign_id, sku, price, merchant_id, paused, available, reserved, version in stock
        },
        coupons={
            coupon_id: Coupon(
                campaign_id=campaign_id,
                user_id=user_id,
                value=value,
                redeemed=redeemed,
                expired=expired,
            )
            for coupon_id, campaign_id, user_id, value, expired, redeemed in coupons
        },
        counters={
            (campaign_id, user_id, _KINDS[kind]): count
            for campaign_id, user_id, kind, count in counters
        },
    )


def campaign_of(row: tuple[Any, ...]) -> Campaign:
    """Read a campaign's terms from the columns of `terms_read`, its clock apart."""
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
