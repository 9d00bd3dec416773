"""Decide: what becomes of each intent of a batch, given everything it may know.

Problem: thousands of intents a second meet on one hot SKU, one budget, one user's last coupon. The
store locks those rows once per batch and reads them into a snapshot; here the whole batch is
decided against it, in memory, in arrival order, with no I/O, no clock and no luck: the same
snapshot and the same `now` always give the same outcomes.

Invariants:
- Each intent is decided all or nothing: every check stands before the marked point of no return,
  every taking after it. A refused intent takes nothing.
- The first applicable reason in the order of `Refusal` is told, so the same state always gives the
  same no.
- A later intent of the batch sees what the earlier ones took, as if they had been decided one at a
  time; the snapshot itself stays as it was read.

A failing intent raises, and takes its batch with it; the service finds it by bisection. Rejected
alternative: a stored procedure per order. It is ten times slower on a hot row, and cannot be run
ten thousand times in a property test.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from workers.domain.coupon import redemption_refusal
from workers.domain.intent import Intent, Kind
from workers.domain.money import Money
from workers.domain.outcome import (
    IssuedCoupon,
    Order,
    OrderStatus,
    Outcome,
    PricedLine,
    Refusal,
)
from workers.domain.pricing import Quote, quote
from workers.domain.snapshot import Campaign, CounterKey, Coupon, Item, Snapshot

_ORDER, _ISSUANCE = Kind.ORDER, Kind.ISSUANCE  # looking a member up takes a tenth of a microsecond


def decide(intents: Sequence[Intent], snapshot: Snapshot, now: datetime) -> list[Outcome]:
    """Decide `intents` in the order given; one outcome each, in that order.

    `now` is the database's clock, read after the locks were taken: it judges `ttl_ms` and starts
    payment windows. Windows of campaigns and coupons are judged at `accepted_at`.
    """
    taken = _Taken(snapshot)
    outcomes = []
    for intent in intents:
        if intent.kind is _ORDER:
            order = _decide_order(intent, taken, now)
            if isinstance(order, Refusal):
                outcomes.append(Outcome(intent=intent, refusal=order))
            else:
                outcomes.append(Outcome(intent=intent, order=order))
        else:
            coupon = _decide_issuance(intent, taken, now)
            if isinstance(coupon, Refusal):
                outcomes.append(Outcome(intent=intent, refusal=coupon))
            else:
                outcomes.append(Outcome(intent=intent, coupon=coupon))
    return outcomes


_Cart = list[tuple[tuple[str, str], Item, PricedLine]]  # (campaign, sku), the item, the line


class _Taken:
    """The snapshot, and what this batch has taken from it so far."""

    __slots__ = ("budgets", "counters", "redeemed", "snapshot", "units")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.units: dict[tuple[str, str], int] = {}
        self.budgets: dict[str, int] = {}  # minor units; below zero where orders gave back
        self.counters = dict(snapshot.counters)
        self.redeemed: set[UUID] = set()


def _decide_order(intent: Intent, taken: _Taken, now: datetime) -> Order | Refusal:
    body, snapshot = intent.body, taken.snapshot
    if now >= intent.deadline:
        return Refusal.DEADLINE_EXPIRED
    campaign = snapshot.campaigns.get(intent.campaign_id)
    if campaign is None or not campaign.starts_at <= intent.accepted_at < campaign.ends_at:
        return Refusal.CAMPAIGN_NOT_ACTIVE
    cart = _cart(intent, snapshot)
    if cart is None:
        return Refusal.UNKNOWN_SKU
    lines = tuple([line for _, _, line in cart])
    coupon: Coupon | None = None
    if body.coupon_id is None and not body.coupon_forged:
        bill = quote(lines)
    else:
        coupon = _coupon(intent, snapshot)
        bill = quote(lines, campaign.coupon, coupon.value if coupon is not None else 0)
        refusal = redemption_refusal(
            coupon,
            campaign,
            user_id=intent.user_id,
            accepted_at=intent.accepted_at,
            redeemed=body.coupon_id in taken.redeemed,
            bill=bill,
        )
        if refusal is not None:
            return refusal
    if body.expected_total is not None and body.expected_total != Money(
        bill.payable, campaign.currency
    ):
        return Refusal.PRICE_CHANGED
    counter = (intent.campaign_id, intent.user_id, _ORDER)
    if taken.counters.get(counter, 0) >= campaign.orders_per_user_max:
        return Refusal.USER_LIMIT_REACHED
    if (refusal := _shortage(cart, taken)) is not None:
        return refusal
    # Point of no return: every check has passed. What follows takes, and cannot refuse.
    _take_order(cart, counter, taken)
    if coupon is not None:
        _take_coupon(intent, coupon, bill, taken)
    return _order(campaign, lines, bill, body.coupon_id, coupon, now)


def _cart(intent: Intent, snapshot: Snapshot) -> _Cart | None:
    """Price each line, or None where the campaign does not sell one of them."""
    campaign_id, items = intent.campaign_id, snapshot.items
    cart = []
    for line in intent.body.lines:
        key = (campaign_id, line.sku)
        item = items.get(key)
        if item is None:
            return None
        cart.append((key, item, PricedLine(line.sku, line.quantity, item.price)))
    return cart


def _coupon(intent: Intent, snapshot: Snapshot) -> Coupon | None:
    coupon_id = intent.body.coupon_id
    if coupon_id is None or intent.body.coupon_forged:
        return None
    return snapshot.coupons.get(coupon_id)


def _shortage(cart: _Cart, taken: _Taken) -> Refusal | None:
    """Tell which of the things to be taken is not to be had: a merchant, or units."""
    units, short = taken.units, None
    for key, item, line in cart:
        if item.merchant_paused:
            return Refusal.MERCHANT_UNAVAILABLE
        if item.available - units.get(key, 0) < line.quantity:
            short = Refusal.SOLD_OUT
    return short


def _take_order(cart: _Cart, counter: CounterKey, taken: _Taken) -> None:
    units, counters = taken.units, taken.counters
    for key, _, line in cart:
        units[key] = units.get(key, 0) + line.quantity
    counters[counter] = counters.get(counter, 0) + 1


def _take_coupon(intent: Intent, coupon: Coupon, bill: Quote, taken: _Taken) -> None:
    if intent.body.coupon_id is not None:
        taken.redeemed.add(intent.body.coupon_id)
    if bill.payable == 0:  # spent at once; the rest of the coupon's value is free again
        rest = coupon.value - bill.discount
        taken.budgets[intent.campaign_id] = taken.budgets.get(intent.campaign_id, 0) - rest


def _order(
    campaign: Campaign,
    lines: tuple[PricedLine, ...],
    bill: Quote,
    coupon_id: UUID | None,
    coupon: Coupon | None,
    now: datetime,
) -> Order:
    paid = bill.payable == 0
    return Order(
        status=OrderStatus.CONFIRMED if paid else OrderStatus.AWAITING_PAYMENT,
        lines=lines,
        total=bill.total,
        discount=bill.discount,
        payable=bill.payable,
        currency=campaign.currency,
        coupon_id=coupon_id,
        coupon_value=0 if coupon is None else coupon.value,
        payment_deadline=None if paid else now + timedelta(milliseconds=campaign.payment_window_ms),
    )


def _decide_issuance(intent: Intent, taken: _Taken, now: datetime) -> IssuedCoupon | Refusal:
    campaign_id, accepted_at = intent.campaign_id, intent.accepted_at
    if now >= intent.deadline:
        return Refusal.DEADLINE_EXPIRED
    campaign = taken.snapshot.campaigns.get(campaign_id)
    if campaign is None or not campaign.starts_at <= accepted_at < campaign.ends_at:
        return Refusal.CAMPAIGN_NOT_ACTIVE
    terms = campaign.coupon
    if terms is None:
        return Refusal.COUPON_NOT_APPLICABLE
    if accepted_at >= terms.valid_until:
        return Refusal.COUPON_EXPIRED
    counter = (campaign_id, intent.user_id, _ISSUANCE)
    issued = taken.counters.get(counter, 0)
    if issued >= campaign.coupons_per_user_max:
        return Refusal.USER_LIMIT_REACHED
    budget = taken.snapshot.budgets.get(campaign_id)
    promised = taken.budgets.get(campaign_id, 0)
    if budget is None or budget.available - promised < terms.amount:
        return Refusal.BUDGET_EXHAUSTED
    # Point of no return: every check has passed. What follows takes, and cannot refuse.
    taken.counters[counter] = issued + 1
    taken.budgets[campaign_id] = promised + terms.amount
    return IssuedCoupon(value=terms.amount, valid_until=terms.valid_until)
