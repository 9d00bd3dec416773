"""Deciding: each refusal, their precedence, and what a batch's intents leave each other."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from domain_builders import (
    ACCEPTED,
    BUDGET,
    CAMPAIGN,
    CLOSING,
    COUPON,
    COUPON_ID,
    NOW,
    OPENING,
    TEA,
    TERMS,
    a_snapshot,
    an_issuance,
    an_order,
    decide_one,
    with_terms,
)
from msgspec.structs import replace

from workers.domain.decide import decide
from workers.domain.intent import Intent, Kind, Line
from workers.domain.money import Money
from workers.domain.outcome import OrderStatus, Refusal
from workers.domain.snapshot import Snapshot

ORDERS = ("spring", "u-1", Kind.ORDER)
ISSUANCES = ("spring", "u-1", Kind.ISSUANCE)


def test_an_order_covered_by_its_coupon_is_confirmed_at_once() -> None:
    """Nothing is left to pay, so nothing is waited for."""
    order = decide_one(an_order(coupon_id=COUPON_ID), a_snapshot()).order
    assert order is not None
    assert (order.status, order.total, order.discount, order.payable) == (
        OrderStatus.CONFIRMED,
        1800,
        1800,
        0,
    )
    assert (order.coupon_id, order.coupon_value) == (COUPON_ID, 2500)
    assert order.payment_deadline is None


def test_an_order_with_something_to_pay_awaits_payment() -> None:
    """Its payment window begins with the decision, not with the acceptance."""
    intent = an_order(lines=(Line("tea", 2),), coupon_id=COUPON_ID)
    order = decide_one(intent, a_snapshot()).order
    assert order is not None
    assert (order.status, order.payable) == (OrderStatus.AWAITING_PAYMENT, 1100)
    assert order.payment_deadline == NOW + timedelta(milliseconds=CAMPAIGN.payment_window_ms)


def test_an_issued_coupon_holds_its_greatest_value() -> None:
    """What a coupon may ever cost is reserved when it is given."""
    coupon = decide_one(an_issuance(), a_snapshot()).coupon
    assert coupon is not None
    assert (coupon.value, coupon.valid_until) == (TERMS.amount, TERMS.valid_until)


# What makes each refusal apply to an order, all of which can apply at once: changes of the
# intent, of the snapshot's tables, of the campaign and of the coupon's terms.
SPOILS: dict[Refusal, dict[str, dict[str, Any]]] = {
    Refusal.DEADLINE_EXPIRED: {"intent": {"ttl_ms": 2000}},
    Refusal.CAMPAIGN_NOT_ACTIVE: {"campaign": {"ends_at": ACCEPTED}},
    Refusal.UNKNOWN_SKU: {"intent": {"lines": (Line("tea", 2), Line("coffee", 1))}},
    Refusal.COUPON_UNKNOWN: {"coupon": {"user_id": "u-2"}},
    Refusal.COUPON_EXPIRED: {"coupon": {"expired": True}},
    Refusal.COUPON_NOT_YET_VALID: {"terms": {"valid_from": NOW}},
    Refusal.COUPON_ALREADY_REDEEMED: {"coupon": {"redeemed": True}},
    Refusal.COUPON_NOT_APPLICABLE: {"terms": {"skus": frozenset({"cake"})}},
    Refusal.MINIMUM_NOT_MET: {"terms": {"minimum_total": 10_000}},
    Refusal.PRICE_CHANGED: {"intent": {"expected_total": Money(999, "CNY")}},
    Refusal.USER_LIMIT_REACHED: {"counters": {ORDERS: 3}},
    Refusal.MERCHANT_UNAVAILABLE: {"item": {"merchant_paused": True}},
    Refusal.SOLD_OUT: {"item": {"available": 0}},
}
ISSUANCE_SPOILS: dict[Refusal, dict[str, dict[str, Any]]] = {
    Refusal.DEADLINE_EXPIRED: {"intent": {"ttl_ms": 2000}},
    Refusal.CAMPAIGN_NOT_ACTIVE: {"campaign": {"starts_at": NOW}},
    Refusal.COUPON_EXPIRED: {"terms": {"valid_until": ACCEPTED}},
    Refusal.USER_LIMIT_REACHED: {"counters": {ISSUANCES: 2}},
    Refusal.BUDGET_EXHAUSTED: {"budget": {"reserved": 97_501}},
}


def spoiled(kind: Kind, *spoils: dict[str, dict[str, Any]]) -> tuple[Intent, Snapshot]:
    """Return a case to which all of `spoils` apply."""
    merged: dict[str, dict[str, Any]] = {}
    for spoil in spoils:
        for part, changes in spoil.items():
            merged[part] = merged.get(part, {}) | changes
    terms = replace(TERMS, **merged.get("terms", {}))
    snapshot = a_snapshot(
        campaigns={"spring": replace(CAMPAIGN, coupon=terms, **merged.get("campaign", {}))},
        items={("spring", "tea"): replace(TEA, **merged.get("item", {}))},
        coupons={COUPON_ID: replace(COUPON, **merged.get("coupon", {}))},
        budgets={"spring": replace(BUDGET, **merged.get("budget", {}))},
        counters=merged.get("counters", {}),
    )
    given = merged.get("intent", {})
    if kind is Kind.ORDER:
        return an_order(coupon_id=COUPON_ID, **given), snapshot
    return an_issuance(**given), snapshot


def test_every_reason_of_the_domain_has_a_case() -> None:
    """`could_not_be_processed` alone is told by the service, of an intent that cannot be decided."""
    assert {*SPOILS, *ISSUANCE_SPOILS} == {*Refusal} - {Refusal.COULD_NOT_BE_PROCESSED}


@pytest.mark.parametrize("reason", SPOILS)
def test_an_order_is_refused_for(reason: Refusal) -> None:
    """One spoiled condition is told by its own reason."""
    outcome = decide_one(*spoiled(Kind.ORDER, SPOILS[reason]))
    assert (outcome.refusal, outcome.order, outcome.coupon) == (reason, None, None)


@pytest.mark.parametrize("reason", ISSUANCE_SPOILS)
def test_an_issuance_is_refused_for(reason: Refusal) -> None:
    """One spoiled condition is told by its own reason."""
    outcome = decide_one(*spoiled(Kind.ISSUANCE, ISSUANCE_SPOILS[reason]))
    assert (outcome.refusal, outcome.order, outcome.coupon) == (reason, None, None)


@pytest.mark.parametrize(("first", "second"), [*combinations(SPOILS, 2)])
def test_of_two_reasons_an_order_is_told_the_earlier(first: Refusal, second: Refusal) -> None:
    """The order of `Refusal` is the precedence: the same state always gives the same no."""
    assert list(Refusal).index(first) < list(Refusal).index(second)
    assert decide_one(*spoiled(Kind.ORDER, SPOILS[first], SPOILS[second])).refusal is first


@pytest.mark.parametrize(("first", "second"), [*combinations(ISSUANCE_SPOILS, 2)])
def test_of_two_reasons_an_issuance_is_told_the_earlier(first: Refusal, second: Refusal) -> None:
    """The order of `Refusal` is the precedence: the same state always gives the same no."""
    case = spoiled(Kind.ISSUANCE, ISSUANCE_SPOILS[first], ISSUANCE_SPOILS[second])
    assert decide_one(*case).refusal is first


def test_all_reasons_at_once_are_told_by_the_first() -> None:
    """Thirteen reasons, one answer."""
    assert decide_one(*spoiled(Kind.ORDER, *SPOILS.values())).refusal is Refusal.DEADLINE_EXPIRED


def test_a_forged_code_reads_like_an_unknown_and_like_another_users_coupon() -> None:
    """Whoever guesses codes learns nothing from the answer."""
    forged = an_order(coupon_forged=True)
    unknown = an_order(coupon_id=UUID(int=8))
    others = an_order(coupon_id=COUPON_ID, user_id="u-2")
    forged_with_id = an_order(coupon_forged=True, coupon_id=COUPON_ID)
    for intent in (forged, unknown, others, forged_with_id):
        assert decide_one(intent, a_snapshot()).refusal is Refusal.COUPON_UNKNOWN


def test_another_campaigns_coupon_is_not_applicable_whatever_the_day() -> None:
    """Its window is its own campaign's; here it never applies."""
    coupons = {COUPON_ID: replace(COUPON, campaign_id="autumn")}
    for campaigns in (with_terms(), with_terms(valid_from=NOW), with_terms(valid_until=ACCEPTED)):
        snapshot = a_snapshot(coupons=coupons, campaigns=campaigns)
        outcome = decide_one(an_order(coupon_id=COUPON_ID), snapshot)
        assert outcome.refusal is Refusal.COUPON_NOT_APPLICABLE


def test_a_campaign_without_coupons_neither_redeems_nor_gives() -> None:
    """No terms: not applicable, whatever the coupon."""
    snapshot = a_snapshot(campaigns={"spring": replace(CAMPAIGN, coupon=None)})
    for intent in (an_order(coupon_id=COUPON_ID), an_issuance()):
        assert decide_one(intent, snapshot).refusal is Refusal.COUPON_NOT_APPLICABLE
    assert decide_one(an_order(), snapshot).order is not None


def test_a_coupon_that_would_take_nothing_off_is_kept() -> None:
    """1 % of 99 rounds down to nothing: the coupon is not used up for it."""
    snapshot = a_snapshot(
        campaigns=with_terms(kind="percent_off", percent=1),
        items={("spring", "tea"): replace(TEA, price=99)},
    )
    outcome = decide_one(an_order(coupon_id=COUPON_ID), snapshot)
    assert outcome.refusal is Refusal.COUPON_NOT_APPLICABLE


def test_the_minimum_is_asked_of_the_whole_cart() -> None:
    """Lines that the coupon does not discount count towards its minimum."""
    items = {("spring", "tea"): TEA, ("spring", "cake"): replace(TEA, price=3000)}
    snapshot = a_snapshot(
        items=items, campaigns=with_terms(minimum_total=4800, skus=frozenset({"tea"}))
    )
    both = an_order(coupon_id=COUPON_ID, lines=(Line("tea", 1), Line("cake", 1)))
    assert decide_one(both, snapshot).order is not None
    assert decide_one(an_order(coupon_id=COUPON_ID), snapshot).refusal is Refusal.MINIMUM_NOT_MET


def test_windows_are_half_open_and_judged_at_acceptance() -> None:
    """The first moment is in, the last is out, however long the intent waited."""
    late = CLOSING + timedelta(seconds=30)
    tick = timedelta(microseconds=1)
    expected = {
        OPENING - tick: Refusal.CAMPAIGN_NOT_ACTIVE,
        OPENING: None,
        CLOSING - tick: None,
        CLOSING: Refusal.CAMPAIGN_NOT_ACTIVE,
    }
    for accepted_at, refusal in expected.items():
        now = late if accepted_at > ACCEPTED else NOW
        ttl_ms = 600_000 if accepted_at > ACCEPTED else 7_200_000
        intent = an_order(coupon_id=COUPON_ID, accepted_at=accepted_at, ttl_ms=ttl_ms)
        assert decide_one(intent, a_snapshot(), now).refusal is refusal


def test_a_deadline_is_judged_at_decision_and_half_open() -> None:
    """At its deadline an answer is of no more use."""
    intent = an_order(ttl_ms=60_000)
    deadline = ACCEPTED + timedelta(seconds=60)
    assert decide_one(intent, a_snapshot(), deadline - timedelta(microseconds=1)).order is not None
    assert decide_one(intent, a_snapshot(), deadline).refusal is Refusal.DEADLINE_EXPIRED


def test_the_expected_total_is_the_payable_amount_in_the_campaigns_currency() -> None:
    """What the user was told to pay, after the coupon."""
    lines = (Line("tea", 2),)
    for amount, currency, refusal in (
        (1100, "CNY", None),
        (3600, "CNY", Refusal.PRICE_CHANGED),
        (1100, "EUR", Refusal.PRICE_CHANGED),
    ):
        intent = an_order(coupon_id=COUPON_ID, lines=lines, expected_total=Money(amount, currency))
        assert decide_one(intent, a_snapshot()).refusal is refusal


def test_an_intent_is_all_or_nothing() -> None:
    """A cart with one line sold out takes nothing of the other, nor the coupon, nor the counter."""
    items = {("spring", "tea"): replace(TEA, available=1), ("spring", "cake"): TEA}
    snapshot = a_snapshot(items=items, counters={ORDERS: 2})
    both = an_order(1, coupon_id=COUPON_ID, lines=(Line("cake", 1), Line("tea", 2)))
    cakes = an_order(2, coupon_id=COUPON_ID, lines=(Line("cake", 10),))
    refused, taken = decide([both, cakes], snapshot, NOW)
    assert refused.refusal is Refusal.SOLD_OUT
    assert taken.order is not None


def test_the_last_unit_goes_to_the_first_in_the_order_given() -> None:
    """Later intents of a batch see what earlier ones took."""
    snapshot = a_snapshot(items={("spring", "tea"): replace(TEA, available=1)})
    first, second = decide([an_order(2), an_order(1, user_id="u-2")], snapshot, NOW)
    assert first.order is not None
    assert second.refusal is Refusal.SOLD_OUT


def test_a_coupon_is_redeemed_once_in_a_batch() -> None:
    """The second order with it is refused, before anything committed."""
    intents = [an_order(n, coupon_id=COUPON_ID) for n in (1, 2)]
    first, second = decide(intents, a_snapshot(), NOW)
    assert first.order is not None
    assert second.refusal is Refusal.COUPON_ALREADY_REDEEMED


def test_a_users_limit_counts_within_a_batch() -> None:
    """Two before and one now make three; the next is over the limit, another user's is not."""
    intents = [an_order(1), an_order(2), an_order(3, user_id="u-2")]
    outcomes = decide(intents, a_snapshot(counters={ORDERS: 2}), NOW)
    assert [o.refusal for o in outcomes] == [None, Refusal.USER_LIMIT_REACHED, None]


def test_the_budget_is_taken_within_a_batch() -> None:
    """Of a budget for one more coupon, the second issuance finds nothing."""
    budgets = {"spring": replace(BUDGET, budget=5000)}
    intents = [an_issuance(1), an_issuance(2, user_id="u-2")]
    outcomes = decide(intents, a_snapshot(budgets=budgets), NOW)
    assert [o.refusal for o in outcomes] == [None, Refusal.BUDGET_EXHAUSTED]


def test_what_a_confirmed_order_leaves_of_its_coupon_can_be_given_again() -> None:
    """Redemption spends the discount and returns the rest, at once."""
    budgets = {"spring": budget_for_one_and_a_half()}
    snapshot = a_snapshot(budgets=budgets, items={("spring", "tea"): replace(TEA, price=1000)})
    redeems, gets = an_order(1, coupon_id=COUPON_ID), an_issuance(2, user_id="u-2")
    assert [o.refusal for o in decide([redeems, gets], snapshot, NOW)] == [None, None]
    early = [o.refusal for o in decide([gets, redeems], snapshot, NOW)]
    assert early == [Refusal.BUDGET_EXHAUSTED, None]


def budget_for_one_and_a_half() -> Any:
    """2500 reserved by the coupon, 1000 free; the order spends 1000 and frees 1500."""
    return replace(BUDGET, budget=3500)


def test_an_order_awaiting_payment_keeps_its_coupons_reservation() -> None:
    """Nothing of it can be given to others before the order is paid."""
    budgets = {"spring": replace(BUDGET, budget=4999)}
    awaiting = an_order(1, coupon_id=COUPON_ID, lines=(Line("tea", 2),))
    outcomes = decide([awaiting, an_issuance(2)], a_snapshot(budgets=budgets), NOW)
    assert [o.refusal for o in outcomes] == [None, Refusal.BUDGET_EXHAUSTED]


def test_the_snapshot_stays_as_it_was_read() -> None:
    """A batch can be decided again, as when it is split to find the one that fails."""
    snapshot = a_snapshot(counters={ORDERS: 1})
    intents = [an_order(1, coupon_id=COUPON_ID), an_issuance(2), an_order(3)]
    before = repr(snapshot)
    assert decide(intents, snapshot, NOW) == decide(intents, snapshot, NOW)
    assert repr(snapshot) == before


def test_an_intent_that_cannot_be_decided_raises() -> None:
    """The service finds it by splitting the batch; nothing is refused by guess."""
    broken = replace(an_order(), body=None)
    with pytest.raises(AttributeError):
        decide([an_order(), broken], a_snapshot(), NOW)
