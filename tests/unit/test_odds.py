"""The odds that are told with `likely_sold_out`: what is assumed, what is counted, what follows."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.domain.odds import COUNT_MAX, PRIOR_COUNT, TAKEN_SHARE, Takings, counted, odds
from workers.domain.outcome import Refusal

EXPIRED = Refusal.COUPON_EXPIRED


def exact(ahead: int, left: int, amount: int, share: float) -> float:
    """The binomial sum that the odds approximate."""
    spare = left - amount
    return sum(comb(ahead, n) * share**n * (1 - share) ** (ahead - n) for n in range(spare + 1))


def test_who_finds_enough_even_if_all_ahead_take_theirs_is_sure_of_it() -> None:
    assert odds(ahead=7, left=10, amount=3) == 1.0
    assert odds(ahead=8, left=10, amount=3) < 1.0


def test_who_wants_more_than_is_left_has_no_chance() -> None:
    assert odds(ahead=0, left=2, amount=3) == 0.0


def test_where_all_ahead_take_or_none_do_there_is_no_luck_in_it() -> None:
    assert odds(ahead=10, left=10, amount=1, taken_share=1.0) == 0.0
    assert odds(ahead=10, left=10, amount=1, taken_share=0.0) == 1.0


@pytest.mark.parametrize("share", [0.5, 0.8, TAKEN_SHARE])
@pytest.mark.parametrize(("ahead", "left"), [(20, 20), (100, 95), (100, 100), (1_000, 940)])
def test_they_are_those_of_a_binomial_count(ahead: int, left: int, share: float) -> None:
    assert odds(ahead, left, 1, share) == pytest.approx(exact(ahead, left, 1, share), abs=0.06)


@given(
    ahead=st.integers(0, 5_000),
    left=st.integers(0, 5_000),
    amount=st.integers(1, 20),
    share=st.floats(0, 1),
)
def test_fewer_ahead_more_left_and_less_wanted_never_lower_them(
    ahead: int, left: int, amount: int, share: float
) -> None:
    told = odds(ahead, left, amount, share)
    assert 0.0 <= told <= 1.0
    assert odds(max(0, ahead - 1), left, amount, share) >= told - 1e-9
    assert odds(ahead, left + 1, amount, share) >= told - 1e-9
    assert odds(ahead, left, amount + 1, share) <= told + 1e-9


def test_before_anything_was_counted_the_assumption_holds() -> None:
    assert Takings().share == TAKEN_SHARE
    assert counted(Takings(), []).share == TAKEN_SHARE


def test_a_few_outcomes_hardly_move_the_share_and_many_replace_the_assumption() -> None:
    """One unlucky user is no rule; half of a thousand is."""
    assert counted(Takings(), [EXPIRED]).share > 0.9
    half = counted(Takings(), [None, EXPIRED] * (COUNT_MAX // 2))
    assert half.share == pytest.approx(0.5, abs=0.01)
    as_much = counted(Takings(), [EXPIRED] * PRIOR_COUNT)
    assert as_much.share == pytest.approx(TAKEN_SHARE / 2)


def test_who_found_nothing_left_says_nothing_of_those_who_did() -> None:
    """Or an hour of `sold_out` would promise units to everybody."""
    nothing = [Refusal.SOLD_OUT, Refusal.BUDGET_EXHAUSTED, Refusal.MERCHANT_UNAVAILABLE]
    assert counted(Takings(), nothing * 100) == Takings()
    assert all(
        counted(Takings(), [refusal]).forgone == 1 for refusal in Refusal if refusal not in nothing
    )


def test_what_was_counted_long_ago_fades() -> None:
    """A quarter of an hour of refused coupons is forgotten by the thousands that follow."""
    bad = counted(Takings(), [EXPIRED] * 5_000)
    assert bad.share < 0.05
    good = bad
    for _ in range(50):
        good = counted(good, [None] * 100)
    assert good.share > 0.95
    assert good.taken + good.forgone <= COUNT_MAX + 1e-6
