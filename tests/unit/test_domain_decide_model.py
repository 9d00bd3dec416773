"""`decide` against a second opinion, over generated batches that collide on everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from domain_builders import ACCEPTED, CLOSING, NOW, OPENING
from domain_model import World
from hypothesis import HealthCheck, find, given, settings
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
MOMENTS = st.sampled_from([OPENING, ACCEPTED, ACCEPTED, ACCEPTED, EDGE, NOW - timedelta(seconds=1)])
AMOUNTS = st.sampled_from([1, 50, 100, 150, 300])

TERMS = st.builds(
    CouponTerms,
    kind=st.sampled_from(["amount_off", "percent_off"]),
    amount=AMOUNTS,
    percent=st.sampled_from([1, 33, 50, 100]),
    minimum_total=st.sampled_from([0, 0, 150, 400]),
    skus=st.sampled_from([frozenset(), frozenset(), frozenset({"tea"}), frozenset({"cake"})]),
    valid_from=st.sampled_from([OPENING, OPENING, EDGE]),
    valid_until=st.sampled_from([CLOSING, CLOSING, EDGE]),
)
ITEM = st.builds(
    Item,
    price=st.sampled_from([0, 99, 100, 150]),
    merchant_id=st.just("m"),
    merchant_paused=st.sampled_from([False, False, False, True]),
    available=st.integers(0, 6),
)
COUPON = st.builds(
    Coupon,
    campaign_id=st.sampled_from(["spring", "spring", "autumn"]),
    user_id=st.sampled_from(USERS),
    value=AMOUNTS,
    redeemed=st.sampled_from([False, False, False, True]),
    expired=st.sampled_from([False, False, False, True]),
)


def campaign(campaign_id: str) -> st.SearchStrategy[Campaign]:
    """Return a campaign; the autumn one may know no coupons."""
    return st.builds(
        Campaign,
        campaign_id=st.just(campaign_id),
        currency=st.just("CNY"),
        starts_at=st.sampled_from([OPENING, OPENING, EDGE]),
        ends_at=st.sampled_from([CLOSING, CLOSING, EDGE]),
        orders_per_user_max=st.integers(1, 4),
        coupons_per_user_max=st.integers(1, 3),
        payment_window_ms=st.just(900_000),
        coupon=TERMS if campaign_id == "spring" else st.none() | TERMS,
    )


@st.composite
def snapshots(draw: Any) -> Snapshot:
    """Return a world in which little is left."""
    coupons = {cid: draw(COUPON) for cid in COUPON_IDS[:3]}
    reserved = {c: sum(x.value for x in coupons.values() if x.campaign_id == c) for c in CAMPAIGNS}
    goods = [(c, s) for c in CAMPAIGNS for s in SKUS if (c, s) != ("autumn", "soup")]
    return Snapshot(
        campaigns={c: draw(campaign(c)) for c in CAMPAIGNS},
        items={key: draw(ITEM) for key in goods},
        coupons=coupons,
        counters={
            (c, u, k): draw(st.integers(0, 2)) for c in CAMPAIGNS for u in USERS for k in Kind
        },
        budgets={
            c: Budget(
                budget=reserved[c] + draw(st.sampled_from([0, 100, 300, 1000])),
                reserved=reserved[c],
                spent=0,
            )
            for c in CAMPAIGNS
        },
    )


LINES = st.lists(
    st.builds(Line, st.sampled_from([*SKUS, *SKUS, "unknown"]), st.integers(1, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda line: line.sku,
).map(tuple)
BODY = st.builds(
    IntentBody,
    lines=LINES,
    coupon_id=st.none() | st.sampled_from(COUPON_IDS),
    coupon_forged=st.sampled_from([False] * 7 + [True]),
    ttl_ms=st.sampled_from([60_000, 60_000, 60_000, 1_000]),
    expected_total=st.none()
    | st.builds(Money, st.sampled_from([0, 0, 50, 100]), st.sampled_from(["CNY", "CNY", "EUR"])),
)
INTENT = st.builds(
    Intent,
    intent_id=st.uuids(),
    kind=st.sampled_from([Kind.ORDER, Kind.ORDER, Kind.ORDER, Kind.ISSUANCE]),
    gateway_id=st.just("g"),
    user_id=st.sampled_from(USERS),
    campaign_id=st.sampled_from(["spring", "spring", "spring", "autumn", "nowhere"]),
    accepted_at=MOMENTS,
    body=BODY,
)
BATCHES = st.tuples(st.lists(INTENT, min_size=1, max_size=12), snapshots())
MANY = settings(
    max_examples=2_000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
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


@MANY
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


@pytest.mark.parametrize("reason", [r for r in Refusal if r is not Refusal.COULD_NOT_BE_PROCESSED])
def test_generated_batches_reach(reason: Refusal) -> None:
    """The generator is no comfort unless it meets every refusal."""
    find(
        BATCHES,
        lambda batch: any(o.refusal is reason for o in decide(*batch, NOW)),
        settings=settings(MANY, max_examples=20_000),
    )


@pytest.mark.parametrize("status", ["confirmed", "awaiting_payment"])
@pytest.mark.parametrize("with_coupon", [True, False])
def test_generated_batches_reach_an_order(status: str, with_coupon: bool) -> None:
    """And every kind of order."""
    find(
        BATCHES,
        lambda batch: any(
            o.order and o.order.status == status and bool(o.order.coupon_id) == with_coupon
            for o in decide(*batch, NOW)
        ),
        settings=settings(MANY, max_examples=20_000),
    )
