"""How many intents are decided a second when there is no lack of them: an estimate.

Waits, rates and calendars are all in units of it, so it must neither vanish with a pause nor jump
with a stroke of luck.

Measured over busy time only. As PIE does with a link's departure rate (RFC 8033), the estimate
rests while there is nothing to serve: an idle worker says nothing about what it could do. It is a
quotient of two sums, decisions by busy time, and not a mean of quotients, so that decisions which
come in lumps (a batch is one commit) count by the time they took. Both sums fade with busy time
alone: a night's sleep ages nothing.

Silence is not counted until it ends. A gap of up to `PAUSE_S` is the space between two batches and
belongs to the rate; a longer one is a pause (a lock, a failover) and is forgotten, so that the rate
after the pause is the rate before. Who must not overlook a pause looks at the silence itself, as
the governor does. A service of less than one decision in `PAUSE_S` is therefore told too high.

What flows can be served: while there is no queue, the decisions of all time, idle or not, are a
lower bound of the rate, and lift an estimate that is below it. Without that an estimate of a bad
moment would stand as long as it bounds what comes: who is let in by it makes no queue to measure by.

Luck is cut: no sample counts for more than `LUCK_MAX` times the present estimate. A single one can
lift it by a quarter; a rate that truly grew is followed by a tenth to a quarter with each sample.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

MEMORY_S: Final = 2.0  # busy time in which an old measurement fades to a third
FIRST_S: Final = 0.5  # faded busy time before anything is said: three samples of 250 ms
PAUSE_S: Final = 1.0
LUCK_MAX: Final = 3.0
_FADING: Final = 1 / MEMORY_S


class ServiceRate(Struct, frozen=True):
    """The estimate and what it rests on: faded sums of decisions, and of busy seconds.

    `silent_s` is busy time since the last decision, of which it is not known yet whether it is a
    pause. `flow_per_s` is decisions by time, busy or not.
    """

    decided: float = 0.0
    busy_s: float = 0.0
    silent_s: float = 0.0
    flow_per_s: float = 0.0

    @property
    def per_s(self) -> float | None:
        """Intents decided a second; None: not measured yet."""
        return self.decided / self.busy_s if self.busy_s >= FIRST_S and self.decided > 0 else None


def measured(rate: ServiceRate, decided: int, interval_s: float, *, busy: bool) -> ServiceRate:
    """Return the estimate after an interval in which `decided` intents were.

    `busy`: there was no lack of work for the workers. Else arrivals are measured, not the service.
    """
    if interval_s <= 0:
        return rate
    rate = replace(rate, flow_per_s=_flow_per_s(rate, decided, interval_s))
    if not busy:
        # Who ran out of work was not silent, but idle.
        return _lifted(replace(rate, silent_s=0.0))
    busy_s = interval_s
    if decided <= 0:
        return replace(rate, silent_s=rate.silent_s + busy_s)
    if rate.silent_s <= PAUSE_S:
        busy_s += rate.silent_s
    counted = _without_luck(rate, decided, busy_s)
    kept = 1 / (1 + _FADING * busy_s)
    return replace(
        rate,
        decided=kept * (rate.decided + counted),
        busy_s=kept * (rate.busy_s + busy_s),
        silent_s=0.0,
    )


def _without_luck(rate: ServiceRate, decided: int, seconds: float) -> float:
    known = rate.per_s
    return decided if known is None else min(decided, LUCK_MAX * known * seconds)


def _flow_per_s(rate: ServiceRate, decided: int, interval_s: float) -> float:
    new = interval_s / (interval_s + MEMORY_S)
    per_s = _without_luck(rate, decided, interval_s) / interval_s
    return rate.flow_per_s + new * (per_s - rate.flow_per_s)


def _lifted(rate: ServiceRate) -> ServiceRate:
    """Return an estimate that is not below what flows; one that is not measured yet stays so."""
    known = rate.per_s
    if known is None or known >= rate.flow_per_s:
        return rate
    return replace(rate, decided=rate.flow_per_s * rate.busy_s)


def doubted(rate: ServiceRate) -> ServiceRate:
    """Return the estimate with a quarter of its weight: the next samples will outweigh it."""
    known = rate.per_s
    if known is None:
        return rate
    busy_s = max(FIRST_S, rate.busy_s / 4)
    return replace(rate, decided=known * busy_s, busy_s=busy_s, silent_s=0.0)


def remembered(per_s: float | None) -> ServiceRate:
    """Return an estimate that another measured, with little weight; None: nothing is known."""
    return ServiceRate() if not per_s else ServiceRate(per_s * FIRST_S, FIRST_S)
