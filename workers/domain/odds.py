"""The odds that something is left for somebody who stands behind others.

They are only ever told; nothing is decided by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from workers.domain.outcome import Refusal

# Of those ahead, how many take what they asked for, where nobody has counted it: most do, and some
# are refused by a worker, for a coupon, a limit or a deadline.
TAKEN_SHARE: Final = 0.95
PRIOR_COUNT: Final = 20  # outcomes that weigh as much as what is assumed
COUNT_MAX: Final = 1_000  # older ones fade: their weights add up to this at most

# Who is refused for one of these found nothing left. It says nothing of those who did find some.
_NOTHING_LEFT: Final = frozenset(
    (Refusal.SOLD_OUT, Refusal.BUDGET_EXHAUSTED, Refusal.MERCHANT_UNAVAILABLE)
)


class Takings(Struct, frozen=True):
    """Of those decided lately, how many took what they asked for, and how many did not, weighed."""

    taken: float = 0.0
    forgone: float = 0.0

    @property
    def share(self) -> float:
        """The share that takes; `TAKEN_SHARE` as long as little was counted."""
        counted = self.taken + self.forgone
        return (self.taken + TAKEN_SHARE * PRIOR_COUNT) / (counted + PRIOR_COUNT)


def counted(before: Takings, decided: Iterable[Refusal | None]) -> Takings:
    """Return the count with these outcomes in it; None is a commitment."""
    refusals = [refusal for refusal in decided if refusal not in _NOTHING_LEFT]
    taken = before.taken + refusals.count(None)
    forgone = before.forgone + len(refusals) - refusals.count(None)
    kept = min(1.0, COUNT_MAX / max(1.0, taken + forgone))
    return Takings(taken * kept, forgone * kept)


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
