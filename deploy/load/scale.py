"""The size of a run: how many intents over how long."""

from __future__ import annotations

from deploy.load.profile import Scale


def resolve(
    usual: Scale, *, orders: int | None, duration_s: float | None, rate: float | None
) -> Scale:
    """Settle orders and duration from what was asked for; the profile's own fill the gaps.

    `rate` is the mean rate per second. All three at once say too much: raises ValueError.
    """
    if rate is None:
        return Scale(orders or usual.orders, duration_s or usual.duration_s)
    if orders is not None and duration_s is not None:
        raise ValueError("--rate, --orders and --duration: give two of them, the third follows")
    if orders is not None:
        return Scale(orders, orders / rate)
    duration = duration_s or usual.duration_s
    return Scale(max(1, round(rate * duration)), duration)
