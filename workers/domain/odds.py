"""The odds that units come back for somebody who stands behind others."""

from __future__ import annotations

import math
from typing import Final

# Of those ahead, how many take what they asked for, where nobody has counted it: the rest is refused
# by a worker, for a coupon or a deadline. It is only ever told as odds, and decides nothing.
TAKEN_SHARE: Final = 0.95


def odds(ahead: int, left: int, amount: int, taken_share: float = TAKEN_SHARE) -> float:
    """Return the chance, 0 to 1, that at least `amount` of `left` units outlast those ahead.

    `ahead` units are in flight, each taken with `taken_share`, independently: a binomial count, here
    by its normal approximation with continuity correction. Departure: units of one intent stand or
    fall together, so the true spread is a little wider.
    """
    spare = left - amount
    if spare < 0:
        return 0.0
    if ahead <= spare:
        return 1.0
    mean = ahead * taken_share
    deviation = math.sqrt(ahead * taken_share * (1 - taken_share))
    if deviation == 0:
        return 1.0 if mean <= spare else 0.0
    return 0.5 * (1 + math.erf((spare + 0.5 - mean) / (deviation * math.sqrt(2))))
