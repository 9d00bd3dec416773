"""Plans: what a run will send, fixed before it starts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from deploy.load import goods, plan, profile, scale
from deploy.load.goods import Goods
from deploy.load.plan import Plan
from deploy.load.profile import Profile, ProfileError, Scale

_GOODS = goods.load("qwen-spring-2026")
_CODES = [(plan.user(n), "ABCDEFGHJKLMNPQRSTUVWXYZ234567ABCDEFGHJK") for n in range(1, 2_001)]


def _planned(terms: Profile, seed: int = 1, count: int = 2_000) -> Plan:
    return plan.orders(terms, _GOODS, _CODES, count=count, duration_s=10, seed=seed)


def _bodies(planned: Plan) -> list[dict[str, Any]]:
    return [json.loads(body) for body in planned.bodies]


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_of_ours_can_be_planned(name: str) -> None:
    """A profile is data; each one that comes with Tidegate makes a whole plan."""
    planned = _planned(profile.load(name))
    assert planned.intents == 2_000
    assert list(planned.due) == sorted(planned.due)
    assert 0 <= planned.due[0] <= planned.due[-1] <= 10
    assert set(planned.index) == set(range(2_000))


def test_the_same_seed_plans_the_same_run() -> None:
    """Two runs with one seed are a run and its replay, to the byte."""
    one, again, other = (_planned(profile.load("qwen"), seed) for seed in (1, 1, 2))
    assert (one.keys, one.bodies, one.due) == (again.keys, again.bodies, again.due)
    assert not set(one.keys) & set(other.keys)


def test_repeated_keys_carry_the_same_bytes_again() -> None:
    """A twentieth of the Qwen intents is sent a second time, later, and never a third."""
    planned = _planned(profile.load("qwen"))
    times = Counter(planned.index)
    assert planned.sends == 2_100
    assert Counter(times.values()) == {1: 1_900, 2: 100}


def test_each_good_coupon_is_sent_by_its_owner_once() -> None:
    """What is not in the mix redeems a coupon of its own."""
    codes = [(plan.user(n), f"CODE{n:036}") for n in range(1, 501)]
    terms = profile.load("steady")
    planned = plan.orders(terms, _GOODS, codes, count=500, duration_s=1, seed=3)
    sent = sorted((body["user_id"], body["coupon_code"]) for body in _bodies(planned))
    assert sent == sorted(codes)


def test_the_mix_sends_what_must_be_refused() -> None:
    """Forged, bad and foreign codes and second uses come in about their shares."""
    owners = {f"{n:032}ABCDEFGH": plan.user(n) for n in range(1, 5_001)}
    coupons = [(user, code) for code, user in owners.items()]
    planned = plan.orders(profile.load("qwen"), _GOODS, coupons, count=5_000, duration_s=1, seed=1)
    seen: Counter[str] = Counter()
    used: set[str] = set()
    for body in _bodies(planned):
        code = body.get("coupon_code")
        if code is None:
            seen["none"] += 1
        elif code.startswith("FREE-TEA"):
            seen["bad"] += 1
        elif code not in owners:
            seen["forged"] += 1
        elif owners[code] != body["user_id"]:
            seen["anothers"] += 1
        elif code in used:
            seen["second"] += 1
        else:
            used.add(code)
            seen["good"] += 1
    assert 0.90 < seen["good"] / 5_000 < 0.96
    for odd, share in {"none": 150, "bad": 25, "forged": 25, "anothers": 25, "second": 100}.items():
        assert share / 2 < seen[odd] < share * 2, odd


def test_a_cart_has_as_many_lines_as_the_profile_says() -> None:
    """Two lines are two SKUs, however popular one is; more than there are SKUs cannot be had."""
    terms = profile.load("steady")
    for lines, skus, wanted in (((0.0, 1.0), 2, 2), ((0.0, 0.0, 1.0), 2, 2), ((1.0,), 2, 1)):
        cart = replace(terms.cart, lines=lines, zipf=10.0)
        few = Goods("few", ("a", "b", "c")[:skus])
        planned = plan.orders(replace(terms, cart=cart), few, [], count=100, duration_s=1, seed=1)
        assert {len(body["lines"]) for body in _bodies(planned)} == {wanted}


def test_an_intent_names_each_sku_in_one_line() -> None:
    """The API refuses a SKU that stands twice."""
    for body in _bodies(_planned(profile.load("qwen"))):
        skus = [line["sku"] for line in body["lines"]]
        assert len(skus) == len(set(skus)) >= 1


def test_without_coupons_every_intent_goes_without() -> None:
    """A profile can be run against a campaign that issued nothing."""
    planned = plan.orders(profile.load("qwen"), _GOODS, [], count=50, duration_s=1, seed=1)
    assert all("coupon_code" not in body for body in _bodies(planned))


def test_a_wrong_profile_is_named_with_its_fault(tmp_path: Any) -> None:
    """An operator reads which file and which field."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "x"\nstory = "y"\n[curve]\npoints = [[0, 0], [1, 1]]\n'
        "[scale]\norders = 10\nduration_s = 1\n[mix]\nforged = 0.5\n"
    )
    with pytest.raises(ProfileError, match=r"mine\.toml.*forged"):
        profile.load(str(file))
    with pytest.raises(ProfileError, match="qwen"):
        profile.load("no-such")


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, (1_000, 10.0)),
        ({"rate": 50}, (500, 10.0)),
        ({"rate": 50, "duration_s": 4}, (200, 4.0)),
        ({"rate": 50, "orders": 200}, (200, 4.0)),
        ({"orders": 7, "duration_s": 3}, (7, 3.0)),
    ],
)
def test_two_of_rate_orders_and_duration_give_the_third(
    asked: dict[str, float], got: tuple[int, float]
) -> None:
    """What is not said comes from the profile; the mean rate is orders by duration."""
    named: dict[str, Any] = {"orders": None, "duration_s": None, "rate": None} | asked
    size = scale.resolve(Scale(1_000, 10.0), **named)
    assert (size.orders, size.duration_s) == got
    with pytest.raises(ValueError, match="two of them"):
        scale.resolve(Scale(1, 1.0), orders=1, duration_s=1.0, rate=1.0)
