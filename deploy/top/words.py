"""Words: figures as an operator reads them. A dash is "nobody says"."""

from __future__ import annotations

from typing import Final

NOBODY_SAYS: Final = "-"

LEVELS: Final = {
    "normal": "everything is open",
    "throttled": "no coupons are given out, polls are slowed",
    "shedding": "orders are shed by class",
    "closed": "nothing is let in",
}
REASONS: Final = {
    "wait": "waits are too long",
    "postgres": "PostgreSQL is slow or away",
    "valkey": "Valkey is slow or away",
    "dispatch": "hints are overdue",
    "operator": "an operator ordered it",
}
LAYERS: Final = {
    "user": "one user's rate",
    "conversation": "one chat's rate",
    "gateway": "a gateway's quota",
    "campaign": "a campaign's rate",
    "sku": "an item's rate",
    "in_flight": "too many in flight",
    "merchant": "a merchant's kitchen",
    "level": "overload",
    "deadline": "would come too late",
    "stock": "stock is in other orders",
    "budget": "budget is in other coupons",
    "intake": "too many wait to be taken",
}

_THOUSANDS: Final = ((1e12, "tn"), (1e9, "bn"), (1e6, "M"), (1e3, "k"))


def count(number: float | None) -> str:
    """Say a count in seven characters at most."""
    if number is None:
        return NOBODY_SAYS
    if abs(number) < 100_000:
        return f"{number:,.0f}"
    for unit, sign in _THOUSANDS:
        if abs(number) >= unit:
            scaled = number / unit
            return f"{scaled:.3g}{sign}" if abs(scaled) < 999.5 else f"{scaled:,.0f}{sign}"
    return f"{number:,.0f}"


def rate(per_s: float | None) -> str:
    """Say how many a second; the unit is the heading's."""
    if per_s is None:
        return NOBODY_SAYS
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else count(per_s)


def span(seconds: float | None) -> str:
    """Say a duration in two or three digits."""
    if seconds is None:
        return NOBODY_SAYS
    if seconds < 0.0995:
        ms = seconds * 1_000
        return f"{ms:.2g} ms" if 0 < ms < 9.95 else f"{ms:.0f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{round(seconds / 3_600)} h" if minutes < 6_000 else f"{round(seconds / 86_400)} days"


def share(ratio: float | None) -> str:
    """Say a ratio in percent; little is not nothing, and nearly all not all."""
    if ratio is None:
        return NOBODY_SAYS
    if 0 < ratio < 0.01:
        return "<1%"
    return f"{min(int(ratio * 100), 99) if ratio < 1 else ratio * 100:.0f}%"
