"""Coupons for a run: read from a file of issued ones, or asked for over the API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.load.goods import Goods
from deploy.load.plan import Coupon, issuances
from deploy.load.profile import Profile
from deploy.load.run import Played, Watch, play
from deploy.load.wire import Target


class CouponsUnreadableError(Exception):
    """A file of coupons that cannot be read; the message says which and why."""


class Issued(Struct, frozen=True):
    """What became of asking for coupons: those that came, and the books of the asking."""

    coupons: list[Coupon]
    played: Played


class _Row(Struct):
    user_id: str
    coupon_code: str


def read(path: Path) -> list[Coupon]:
    """Read what `tidegate campaign issue` wrote: NDJSON. Raises CouponsUnreadableError."""
    try:
        rows = msgspec.json.Decoder(_Row).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as fault:
        raise CouponsUnreadableError(f"coupons {path}: {fault}") from None
    return [(row.user_id, row.coupon_code) for row in rows]


def ask(
    users: Sequence[str],
    profile: Profile,
    goods: Goods,
    to: Target,
    *,
    seed: int,
    watch: Watch = lambda _: None,
) -> Issued:
    """Ask for one coupon for each of `users` over the API, and wait for the codes."""
    plan = issuances(profile, goods, users, duration_s=profile.issuance.duration_s, seed=seed)
    played = play(plan, to, profile.retry, seed=seed, watch=watch)
    codes = played.books.coupon_codes
    return Issued([(users[i], codes[i]) for i in sorted(codes)], played)
