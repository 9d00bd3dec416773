"""Pricing: what a cart costs, and what a coupon takes off. Whole minor units throughout.

Rounding is always in favour of the budget: a percentage is rounded down, and a discount is never
above what the coupon holds in the budget, nor above what the eligible lines cost. So a discount
can be paid from the coupon's own reservation, and nothing is ever payable to the user.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from workers.domain.outcome import PricedLine
from workers.domain.snapshot import CouponTerms


class Quote(Struct, frozen=True, gc=False):
    """A priced cart, in minor units: `payable = total - discount`."""

    total: int
    discount: int
    payable: int


def quote(
    lines: Sequence[PricedLine], terms: CouponTerms | None = None, coupon_value: int = 0
) -> Quote:
    """Price `lines`, with a coupon of these terms that holds `coupon_value` if there is one."""
    total = 0
    for line in lines:
        total += line.unit_price * line.quantity
    if terms is None:
        return Quote(total, 0, total)
    discount = _discount(terms, coupon_value, _eligible_total(lines, terms, total))
    return Quote(total, discount, total - discount)


def _eligible_total(lines: Sequence[PricedLine], terms: CouponTerms, total: int) -> int:
    skus = terms.skus
    if not skus:
        return total
    return sum(line.unit_price * line.quantity for line in lines if line.sku in skus)


def _discount(terms: CouponTerms, coupon_value: int, eligible_total: int) -> int:
    offer = terms.amount
    if terms.kind == "percent_off":
        offer = min(offer, eligible_total * terms.percent // 100)
    return min(offer, coupon_value, eligible_total)
