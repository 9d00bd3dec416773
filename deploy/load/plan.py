"""Plans: every intent of a run with its key, its body and its times, made before the start.

The whole plan follows from profile, goods, coupons and seed. The same seed makes the same keys and
bodies: run twice against one deployment, the second run is a replay, and must be answered as one.
Keys and bodies are kept as bytes in columns; a run of 100,000 takes some 40 MB, and the sender has
nothing left to do but to write them out.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import TypeVar

import msgspec
from msgspec import Struct

from deploy.load.goods import Goods
from deploy.load.profile import Cart, Profile

T = TypeVar("T")
Coupon = tuple[str, str]  # user id, coupon code

_encode = msgspec.json.Encoder().encode
# Letters that stand in a code wherever it is; swapping one for another breaks its signature.
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class Plan(Struct, frozen=True, kw_only=True):
    """Intents in columns, and the sends that carry them.

    `keys[i]` and `bodies[i]` are intent i. Send n goes out `due[n]` seconds after the start and
    carries intent `index[n]`; an intent sent twice is a repeated key. `due` never falls.
    """

    kind: str  # "order" or "issuance"
    path: str
    keys: list[bytes]
    bodies: list[bytes]
    due: array[float]
    index: array[int]
    users: list[str]

    @property
    def intents(self) -> int:
        """How many different intents there are."""
        return len(self.keys)

    @property
    def sends(self) -> int:
        """How many times one is sent, retries not counted."""
        return len(self.due)


def orders(
    profile: Profile,
    goods: Goods,
    coupons: Sequence[Coupon],
    *,
    count: int,
    duration_s: float,
    seed: int,
) -> Plan:
    """Plan `count` purchase intents over `duration_s` seconds.

    Without coupons every intent goes without one; with fewer coupons than intents the last ones do.
    """
    random = Random(f"orders/{seed}")
    bodies, users = _bodies(profile, goods, coupons, count, random)
    times = [at * duration_s for at in profile.shape.times(count, random)]
    due, index = _with_repeats(times, profile, random)
    keys = [f"{seed:x}-{count}-o-{i}".encode() for i in range(count)]
    return Plan(
        kind="order",
        path="/v1/intents",
        keys=keys,
        bodies=bodies,
        due=due,
        index=index,
        users=users,
    )


def issuances(
    profile: Profile, goods: Goods, users: Sequence[str], *, duration_s: float, seed: int
) -> Plan:
    """Plan one coupon for each of `users`, evenly over `duration_s` seconds."""
    random = Random(f"issuances/{seed}")
    locale = _chooser(list(profile.people.locales), list(profile.people.locales.values()))
    bodies = [
        _encode({"user_id": user, "campaign_id": goods.campaign_id, "locale": locale(random)})
        for user in users
    ]
    step = duration_s / max(len(users), 1)
    due = array("d", (i * step for i in range(len(users))))
    keys = [f"{seed:x}-{len(users)}-c-{i}".encode() for i in range(len(users))]
    return Plan(
        kind="issuance",
        path="/v1/coupons",
        keys=keys,
        bodies=bodies,
        due=due,
        index=array("l", range(len(users))),
        users=list(users),
    )


def user(number: int) -> str:
    """Name the n-th made-up user."""
    return f"u-{number}"


def _bodies(
    profile: Profile, goods: Goods, coupons: Sequence[Coupon], count: int, random: Random
) -> tuple[list[bytes], list[str]]:
    wallet = _Wallet(profile, coupons, random)
    basket = _basket(profile.cart, goods.skus)
    locale = _chooser(list(profile.people.locales), list(profile.people.locales.values()))
    bodies, users = [], []
    for _ in range(count):
        name, code = wallet.draw()
        body = {
            "user_id": name,
            "campaign_id": goods.campaign_id,
            "lines": basket(random),
            "conversation_id": f"c-{name}",
            "locale": locale(random),
        }
        if code is not None:
            body["coupon_code"] = code
        bodies.append(_encode(body))
        users.append(name)
    return bodies, users


class _Wallet:
    """Deals users and codes by the profile's mix; each good coupon is dealt once."""

    def __init__(self, profile: Profile, coupons: Sequence[Coupon], random: Random) -> None:
        mix = profile.mix
        self._random = random
        self._people = profile.people
        self._unused = list(coupons)
        random.shuffle(self._unused)
        self._all = tuple(self._unused)
        self._used: list[Coupon] = []
        odd = {
            self._none: mix.no_coupon,
            self._second: mix.second_use,
            self._anothers: mix.anothers_coupon,
            self._forged: mix.forged_coupon,
            self._bad: mix.bad_coupon,
        }
        odd[self._good] = max(0.0, 1.0 - sum(odd.values()))
        self._deal = _chooser(list(odd), list(odd.values()))

    def draw(self) -> tuple[str, str | None]:
        if not self._all:
            return self._none()
        return self._deal(self._random)()

    def _good(self) -> tuple[str, str | None]:
        if not self._unused:
            return self._none()
        coupon = self._unused.pop()
        self._used.append(coupon)
        return coupon

    def _none(self) -> tuple[str, str | None]:
        return self._someone(), None

    def _second(self) -> tuple[str, str | None]:
        return self._random.choice(self._used) if self._used else self._good()

    def _anothers(self) -> tuple[str, str | None]:
        owner, code = self._random.choice(self._all)
        thief = self._someone()
        return (thief, code) if thief != owner else self._none()

    def _forged(self) -> tuple[str, str | None]:
        name, code = self._random.choice(self._all)
        at = max(0, len(code) - 6)  # inside the signature, away from padding bits
        other = self._random.choice(_BASE32.replace(code[at].upper(), ""))
        return name, code[:at] + other + code[at + 1 :]

    def _bad(self) -> tuple[str, str | None]:
        return self._someone(), f"FREE-TEA-{self._random.randrange(10_000)}"

    def _someone(self) -> str:
        return user(1 + self._random.randrange(self._people.users))


def _chooser(options: Sequence[T], weights: Sequence[float]) -> Callable[[Random], T]:
    """Make a weighted choice; `random.choices` would add the weights up again at every call."""
    edges = list(accumulate(weights))
    top = edges[-1]
    last = len(options) - 1
    return lambda random: options[min(bisect_right(edges, random.random() * top), last)]


def _basket(cart: Cart, offered: Sequence[str]) -> Callable[[Random], list[dict[str, object]]]:
    """Make carts: how many lines, which SKUs, how many of each."""
    skus = [sku for sku in cart.skus if sku in offered] or list(offered)
    sku = _chooser(skus, [1 / rank**cart.zipf for rank in range(1, len(skus) + 1)])
    lines = _chooser(range(1, len(cart.lines) + 1), cart.lines)
    quantity = _chooser(range(1, len(cart.quantities) + 1), cart.quantities)

    def draw(random: Random) -> list[dict[str, object]]:
        # A SKU drawn twice stands once: an intent names each SKU in one line.
        chosen = dict.fromkeys(sku(random) for _ in range(lines(random)))
        return [{"sku": name, "quantity": quantity(random)} for name in chosen]

    return draw


def _with_repeats(
    times: Sequence[float], profile: Profile, random: Random
) -> tuple[array[float], array[int]]:
    """Add the sends of repeated keys, none later than the last first send."""
    sends = list(zip(times, range(len(times)), strict=True))
    end = times[-1] if times else 0.0
    for again in random.sample(range(len(times)), round(profile.mix.repeated_keys * len(times))):
        later = times[again] + random.random() * profile.mix.repeated_within_s
        sends.append((min(later, end), again))
    sends.sort()
    return array("d", (at for at, _ in sends)), array("l", (i for _, i in sends))
