"""Profiles: a day's arrivals, as a file.

A profile says how intents come (the curve), what they ask for (cart, mix, people) and how their
senders take a no (retry). It names no server and no campaign, so that every one can be replayed
against every deployment.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from deploy.load.curve import Curve, through

_PROFILES = Path(__file__).parent / "profiles"

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Weights = Annotated[tuple[float, ...], Meta(min_length=1, max_length=20)]


class CurveTerms(Struct, frozen=True, forbid_unknown_fields=True):
    """Published points `[time, intents by then]`; any units, they are scaled to the run."""

    points: Annotated[tuple[tuple[float, float], ...], Meta(min_length=2)]


class Scale(Struct, frozen=True, forbid_unknown_fields=True):
    """The run when nobody says otherwise."""

    orders: Annotated[int, Meta(ge=1)]
    duration_s: Annotated[float, Meta(gt=0)]


class Mix(Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of all intents. What they leave over redeems a good coupon of its own."""

    no_coupon: Share = 0.0
    second_use: Share = 0.0  # a coupon that an earlier intent of the same user asked for too
    anothers_coupon: Share = 0.0
    forged_coupon: Share = 0.0  # looks right, its signature does not verify
    bad_coupon: Share = 0.0  # not a code at all
    # Sends of a key that was already sent, on top of the intents: the chat's nervous second click.
    repeated_keys: Share = 0.0
    repeated_within_s: Annotated[float, Meta(ge=0.0)] = 2.0


class Cart(Struct, frozen=True, forbid_unknown_fields=True):
    """What one intent asks for."""

    lines: Weights = (1.0,)  # weight of a cart with 1, 2, … lines
    quantities: Weights = (1.0,)  # weight of 1, 2, … units in a line
    # Popularity of the n-th item is 1 / n**zipf; the campaign lists its items by popularity.
    zipf: Annotated[float, Meta(ge=0.0, le=10.0)] = 1.0
    skus: tuple[str, ...] = ()  # empty: every item of the campaign


class People(Struct, frozen=True, forbid_unknown_fields=True):
    """Who sends intents, where they hold no coupon that names them."""

    users: Annotated[int, Meta(ge=1)] = 100_000
    locales: dict[str, float] = field(default_factory=lambda: {"zh-CN": 1.0})


class Issuance(Struct, frozen=True, forbid_unknown_fields=True):
    """How coupons reach their users before the orders come."""

    live_share: Share = 0.03  # asked for one by one over the API; the others are issued in bulk
    duration_s: Annotated[float, Meta(gt=0)] = 3.0


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """How a sender takes a lost reply or a no. A retry always carries the same key."""

    # `polite` comes back when told to; `at_once` does not wait; `never` takes the no.
    refused: Literal["polite", "at_once", "never"] = "polite"
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 6
    # A sender told to wait longer than this goes away instead.
    retry_after_max_s: Annotated[float, Meta(ge=0.0)] = 5.0
    # A reply this late counts as lost.
    answer_timeout_s: Annotated[float, Meta(gt=0)] = 15.0
    backoff_s: Annotated[float, Meta(gt=0)] = 0.05
    backoff_max_s: Annotated[float, Meta(gt=0)] = 2.0


class Profile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One profile. `story` says what it replays, in a sentence fit for the report."""

    title: str
    story: str
    # What the curve's whole length stands for: "9 hours".
    clock: Annotated[str, Meta(pattern=r"^$|^[0-9.]+ [a-z]+\Z")] = ""
    curve: CurveTerms
    scale: Scale
    mix: Mix = Mix()
    cart: Cart = Cart()
    people: People = People()
    issuance: Issuance = Issuance()
    retry: Retry = Retry()

    def __post_init__(self) -> None:
        through(self.curve.points)
        mix = self.mix
        odd = mix.no_coupon + mix.second_use + mix.anothers_coupon
        if odd + mix.forged_coupon + mix.bad_coupon > 1.0:
            raise ValueError("`mix` shares add up to more than 1")
        if sum(self.cart.lines) <= 0 or sum(self.cart.quantities) <= 0:
            raise ValueError("`cart` weights add up to nothing")

    @property
    def shape(self) -> Curve:
        """The curve through the published points."""
        return through(self.curve.points)


class ProfileError(Exception):
    """A profile that cannot be used; the message says which and why."""


def names() -> list[str]:
    """Name the profiles that come with Tidegate."""
    return sorted(path.stem for path in _PROFILES.glob("*.toml"))


def load(name: str) -> Profile:
    """Read the profile `name`: one of ours, or the path of a TOML file. Raises ProfileError."""
    path = _PROFILES / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Profile)
    except FileNotFoundError:
        msg = f"no profile {name!r}: give one of {', '.join(names())}, or the path of a TOML file"
        raise ProfileError(msg) from None
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as fault:
        raise ProfileError(f"profile {path}: {fault}") from None
