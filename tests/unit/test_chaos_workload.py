"""Whom the driver of a chaos run plays."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pytest

from deploy.chaos import harness
from deploy.chaos.workload import PRICED, RARE, Wish, everyday, sell_out

COUPONS = [(f"c-{n}", f"CODE{n:012}") for n in range(400)]


def people(count: int = 2_000, seed: int = 1) -> list[Wish]:
    return list(islice(everyday("chaos-1", COUPONS, seed), count))


def body(wish: Wish) -> dict[str, object]:
    return json.loads(wish.body)


def test_the_same_seed_plays_the_same_people() -> None:
    assert people() == people()
    assert people() != people(seed=2)


def test_no_two_wishes_share_a_key() -> None:
    assert len({wish.key for wish in people()}) == 2_000


def test_carts_of_two_name_their_items_in_either_order() -> None:
    """Or no two batches would ever lock the same rows in opposite order."""
    orders = {tuple(wish.units) for wish in people() if len(wish.units) == 2}
    assert orders == {("hot", "warm"), ("warm", "hot")}


def test_a_wish_says_in_its_body_what_the_history_is_told_of_it() -> None:
    for wish in people(300):
        if wish.kind == "order":
            said = {line["sku"]: line["quantity"] for line in body(wish)["lines"]}  # type: ignore[attr-defined]
            assert (said, body(wish)["user_id"]) == (wish.units, wish.user)


def test_some_redeem_a_coupon_twice_some_forge_one_and_some_steal_one() -> None:
    redeeming = [wish for wish in people() if wish.coupon]
    uses = Counter(str(body(wish)["coupon_code"]) for wish in redeeming)
    known = {code for _, code in COUPONS}
    assert any(count > 1 for count in uses.values())
    assert any(code not in known for code in uses)
    assert any(wish.user == "thief" for wish in redeeming)


def test_some_post_twice_at_once_and_some_come_back_with_another_wish() -> None:
    everybody = people()
    assert any(wish.twin for wish in everybody)
    assert any(wish.rebody and wish.rebody != wish.body for wish in everybody)
    assert {wish.ending for wish in everybody} == {"pay", "cancel", "leave"}


@pytest.mark.parametrize("size", [1, 1.3, 4, 180])
def test_a_longer_run_has_more_of_what_is_scarce_and_coupons_that_its_budget_holds(
    size: float,
) -> None:
    """Else a long run would soon have nothing left to fight for."""
    file = harness.campaign_of("c", size)
    (rare,) = (item.stock for item in file.items if item.sku == RARE)
    assert rare == pytest.approx(60 * size, abs=1)
    assert file.campaign.coupon is not None
    left = file.budget - round(harness.COUPONS * size) * file.campaign.coupon.amount
    assert 0 < left <= size * file.campaign.coupon.amount + 2_500


def test_more_ask_for_coupons_than_the_budget_holds_with_all_that_redemptions_return() -> None:
    """Else nothing would show that it is never exceeded."""
    file = harness.campaign_of("c", 1)
    (price,) = (item.price for item in file.items if item.sku == PRICED)
    assert file.campaign.coupon is not None
    value = file.campaign.coupon.amount
    some = people(500)
    redeemed = {(wish.user, body(wish)["coupon_code"]) for wish in some if wish.coupon}
    redeemed &= {*COUPONS}
    free = file.budget - harness.COUPONS * value + len(redeemed) * (value - price)
    assert sum(wish.kind == "issuance" for wish in some) * value > 1.5 * free


def test_in_a_sell_out_everybody_wants_one_of_the_same() -> None:
    crowd = islice(sell_out("chaos-1", (), 1), 100)
    assert all(wish.units == {RARE: 1} for wish in crowd)
