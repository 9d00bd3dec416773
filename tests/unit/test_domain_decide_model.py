"""`decide` against a second opinion, over generated batches that collide on everything."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from domain_builders import ACCEPTED, CLOSING, NOW, OPENING
from domain_model import World
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.domain.decide import decide
from workers.domain.intent import Intent, IntentBody, Kind, Line
from workers.domain.money import Money
from workers.domain.movements import ledger_entries, movements_of
from workers.domain.outcome import Outcome, Refusal
from workers.domain.snapshot import Budget, Campaign, Coupon, CouponTerms, Item, Snapshot

Batch = tuple[list[Intent], Snapshot]

# Small alphabets, so that intents meet on goods, coupons, users and budgets.
CAMPAIGNS, SKUS, USERS = ("spring", "autumn"), ("tea", "cake", "soup"), ("u-1", "u-2")
COUPON_IDS = tuple(UUID(int=n) for n in range(1, 5))
EDGE = ACCEPTED + timedelta(seconds=1)
AMOUNTS = (1, 50, 100, 150, 300)
LENGTH_MAX = 16

# A batch is made from a seed by plain code: fifty times as fast as drawing each of its values.
# Its world comes first, so a failing batch is shrunk by its length to the shortest that fails.
BATCHES = st.builds(
    lambda seed, length: a_batch(Random(seed), length),
    st.integers(0, 2**32),
    st.integers(1, LENGTH_MAX),
)
MANY = settings(max_examples=3_000, deadline=None, database=None)


def a_batch(luck: Random, length: int) -> Batch:
    """Return a world in which little is left, and intents that meet in it."""
    snapshot = a_world(luck)
    return [an_intent(luck) for _ in range(length)], snapshot


def a_world(luck: Random) -> Snapshot:
    """Return two campaigns, their goods, three coupons of four that are asked for."""
    coupons = {coupon_id: a_coupon(luck) for coupon_id in COUPON_IDS[:3]}
    reserved = {c: sum(x.value for x in coupons.values() if x.campaign_id == c) for c in CAMPAIGNS}
    free = {c: luck.choice((0, 40, 90, 140, 200, 299, 1000)) for c in CAMPAIGNS}
    goods = [(c, sku) for c in CAMPAIGNS for sku in SKUS if (c, sku) != ("autumn", "soup")]
    users = [(c, user, kind) for c in CAMPAIGNS for user in USERS for kind in Kind]
    return Snapshot(
        campaigns={c: a_campaign(luck, c) for c in CAMPAIGNS},
        items={key: an_item(luck) for key in goods},
        coupons=coupons,
        counters={key: luck.choice((0, 0, 1, 2)) for key in users},
        budgets={
            c: Budget(budget=reserved[c] + free[c], reserved=reserved[c], spent=0)
            for c in CAMPAIGNS
        },
    )


def a_campaign(luck: Random, campaign_id: str) -> Campaign:
    """Return a campaign; the autumn one may know no coupons."""
    knows_coupons = campaign_id == "spring" or luck.random() < 0.5
    return Campaign(
        campaign_id=campaign_id,
        currency="CNY",
        starts_at=luck.choice((OPENING, OPENING, EDGE)),
        ends_at=luck.choice((CLOSING, CLOSING, EDGE)),
        orders_per_user_max=luck.randint(2, 5),
        coupons_per_user_max=luck.randint(2, 4),
        payment_window_ms=900_000,
        coupon=some_terms(luck) if knows_coupons else None,
    )


def some_terms(luck: Random) -> CouponTerms:
    """Return terms of either kind, most of them open and for everything."""
    return CouponTerms(
        kind=luck.choice(("amount_off", "percent_off")),
        amount=luck.choice(AMOUNTS),
        percent=luck.choice((1, 33, 50, 100)),
        minimum_total=luck.choice((0, 0, 150, 400)),
        skus=luck.choice((frozenset(), frozenset(), frozenset({"tea"}), frozenset({"cake"}))),
        valid_from=luck.choice((OPENING, OPENING, EDGE)),
        valid_until=luck.choice((CLOSING, CLOSING, EDGE)),
    )


def an_item(luck: Random) -> Item:
    """Return one of which few are left."""
    return Item(
        price=luck.choice((0, 99, 100, 150)),
        merchant_id="m",
        merchant_paused=luck.random() < 0.1,
        available=luck.randint(0, 9),
    )


def a_coupon(luck: Random) -> Coupon:
    """Return a coupon of either user and campaign."""
    return Coupon(
        campaign_id=luck.choice(("spring", "spring", "autumn")),
        user_id=luck.choice(USERS),
        value=luck.choice(AMOUNTS),
        redeemed=luck.random() < 0.1,
        expired=luck.random() < 0.1,
    )


def an_intent(luck: Random) -> Intent:
    """Return an intent that meets others on everything it wants."""
    wanted = luck.sample((*SKUS, "unknown"), counts=(9, 9, 9, 1), k=luck.randint(1, 3))
    lines = tuple(Line(sku, luck.randint(1, 3)) for sku in dict.fromkeys(wanted))
    body = IntentBody(
        lines=lines,
        coupon_id=luck.choice((None, *COUPON_IDS)),
        coupon_forged=luck.random() < 0.05,
        ttl_ms=luck.choice((60_000, 60_000, 60_000, 60_000, 1_000)),
        expected_total=luck.choice((None, None, None, Money(0, "CNY"), Money(100, "EUR"))),
    )
    return Intent(
        intent_id=UUID(int=luck.getrandbits(128)),
        kind=luck.choice((Kind.ORDER, Kind.ORDER, Kind.ORDER, Kind.ISSUANCE)),
        gateway_id="g",
        user_id=luck.choice(USERS),
        campaign_id=luck.choice(("spring",) * 8 + ("autumn", "autumn", "nowhere")),
        accepted_at=luck.choice((OPENING, ACCEPTED, ACCEPTED, ACCEPTED, EDGE)),
        body=body,
    )


def told(outcome: Outcome) -> Any:
    """Say an outcome in the model's words."""
    if outcome.refusal is not None:
        return outcome.refusal.value
    if outcome.coupon is not None:
        return {"value": outcome.coupon.value, "valid_until": outcome.coupon.valid_until}
    fields = ("status", "total", "discount", "payable", "payment_deadline")
    return {name: getattr(outcome.order, name) for name in fields}


@MANY
@given(BATCHES)
def test_a_batch_is_decided_as_if_its_intents_came_one_at_a_time(batch: Batch) -> None:
    """Outcomes, and all that they move, are those of the model."""
    intents, snapshot = batch
    world = World(snapshot)
    outcomes = decide(intents, snapshot, NOW)
    assert [told(o) for o in outcomes] == [world.tell(intent, NOW) for intent in intents]
    assert [o.intent for o in outcomes] == intents

    moved = movements_of(outcomes)
    for key, item in snapshot.items.items():
        available, reserved, sold = moved.stock.get(key, (0, 0, 0))
        stock = world.stock[key]
        assert (item.available + available, reserved, sold) == tuple(stock.values())
    for campaign_id, budget in snapshot.budgets.items():
        reserved, spent = moved.budgets.get(campaign_id, (0, 0))
        after = world.budgets[campaign_id]
        assert (budget.reserved + reserved, spent) == (after["reserved"], after["spent"])
    for (campaign_id, user_id, kind), step in moved.counters.items():
        before = snapshot.counters[campaign_id, user_id, kind]
        assert world.counters[campaign_id, user_id, str(kind)] == before + step


@settings(MANY, max_examples=1_000)
@given(BATCHES)
def test_a_batch_takes_no_more_than_there_is_and_loses_nothing(batch: Batch) -> None:
    """No stock, budget or limit goes below nothing, and the ledger's entries sum to zero."""
    intents, snapshot = batch
    moved = movements_of(decide(intents, snapshot, NOW))
    for key, delta in moved.stock.items():
        assert sum(delta) == 0
        assert delta.reserved >= 0
        assert delta.sold >= 0
        assert snapshot.items[key].available + delta.available >= 0
    for campaign_id, delta in moved.budgets.items():
        budget = snapshot.budgets[campaign_id]
        assert budget.reserved + delta.reserved >= 0
        assert budget.available - delta.reserved - delta.spent >= 0
    for key, step in moved.counters.items():
        terms = snapshot.campaigns[key[0]]
        most = terms.orders_per_user_max if key[2] is Kind.ORDER else terms.coupons_per_user_max
        assert 0 < step <= most - snapshot.counters[key]
    sums: dict[str, int] = {}
    for account, delta in ledger_entries(moved):
        unit = account.rpartition(":")[0]
        sums[unit] = sums.get(unit, 0) + delta
        assert delta != 0
    assert not any(sums.values())


@pytest.fixture(scope="module")
def met() -> set[str]:
    """Everything that the first thousand batches are told."""
    outcomes = [o for seed in range(1_000) for o in decide(*a_batch(Random(seed), 16), NOW)]
    return {kind_of(outcome) for outcome in outcomes}


def kind_of(outcome: Outcome) -> str:
    """Name an outcome: its refusal, its order's status and coupon, or a coupon."""
    if outcome.order is not None:
        return f"{outcome.order.status}{' with a coupon' if outcome.order.coupon_id else ''}"
    return outcome.refusal or "coupon"


@pytest.mark.parametrize("reason", [r for r in Refusal if r is not Refusal.COULD_NOT_BE_PROCESSED])
def test_generated_batches_reach(reason: Refusal, met: set[str]) -> None:
    """The generator is no comfort unless it meets every refusal."""
    assert reason in met


def test_generated_batches_reach_every_success(met: set[str]) -> None:
    """Orders confirmed and awaiting payment, with a coupon and without, and coupons."""
    statuses = ("confirmed", "awaiting_payment")
    with_coupons = {f"{status} with a coupon" for status in statuses}
    assert {*statuses, *with_coupons, "coupon"} <= met
