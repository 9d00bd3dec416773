"""Pricing: totals, discounts and their bounds."""

from __future__ import annotations

import pytest
from domain_builders import TERMS
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from workers.domain.outcome import PricedLine
from workers.domain.pricing import quote

TEA, CAKE = PricedLine("tea", 2, 1800), PricedLine("cake", 1, 2480)


def test_a_cart_without_a_coupon_is_payable_in_full() -> None:
    """Total and payable are the sum of price times quantity."""
    bill = quote((TEA, CAKE))
    assert (bill.total, bill.discount, bill.payable) == (6080, 0, 6080)


@pytest.mark.parametrize(
    ("amount", "value", "discount"),
    [
        pytest.param(2500, 2500, 2500, id="its amount"),
        pytest.param(9000, 9000, 6080, id="at most what the cart costs"),
        pytest.param(2500, 2000, 2000, id="at most what it holds in the budget"),
    ],
)
def test_amount_off_takes_its_amount_within_bounds(amount: int, value: int, discount: int) -> None:
    """A discount is never above the coupon's own reservation, nor above the cart."""
    assert quote((TEA, CAKE), replace(TERMS, amount=amount), value).discount == discount


def test_percent_off_is_rounded_down() -> None:
    """33 % of 6080 is 2006.4: the fraction stays in the budget."""
    terms = replace(TERMS, kind="percent_off", percent=33, amount=5000)
    assert quote((TEA, CAKE), terms, 5000).discount == 2006


def test_percent_off_is_capped() -> None:
    """`amount` is the greatest value of a percentage."""
    terms = replace(TERMS, kind="percent_off", percent=50, amount=1000)
    assert quote((TEA, CAKE), terms, 1000).discount == 1000


def test_only_the_lines_of_the_terms_skus_are_discounted() -> None:
    """A coupon for cake takes nothing off tea."""
    terms = replace(TERMS, amount=9000, skus=frozenset({"cake"}))
    assert quote((TEA, CAKE), terms, 9000).discount == 2480
    percent = replace(terms, kind="percent_off", percent=50)
    assert quote((TEA, CAKE), percent, 9000).discount == 1240


LINES = st.lists(
    st.builds(PricedLine, st.sampled_from("abc"), st.integers(1, 99), st.integers(0, 10_000)),
    min_size=1,
)
ALL_TERMS = st.builds(
    lambda kind, amount, percent, skus: replace(
        TERMS, kind=kind, amount=amount, percent=percent, skus=skus
    ),
    st.sampled_from(["amount_off", "percent_off"]),
    st.integers(1, 10_000),
    st.integers(1, 100),
    st.frozensets(st.sampled_from("abc")),
)


@given(lines=LINES, terms=ALL_TERMS, value=st.integers(0, 10_000))
def test_a_discount_stays_within_every_bound(lines: list, terms: object, value: int) -> None:
    """Nothing is ever payable to the user, and no coupon takes more than it holds."""
    bill = quote(lines, terms, value)
    eligible = sum(
        line.unit_price * line.quantity
        for line in lines
        if not terms.skus or line.sku in terms.skus
    )
    assert 0 <= bill.discount <= min(value, terms.amount, eligible)
    assert bill.payable == bill.total - bill.discount >= 0
