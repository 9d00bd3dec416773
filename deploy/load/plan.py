"""Plans: every intent of a run with its key, its body and its times, made before the start.

The whole plan follows from profile, goods, coupons and seed. The same seed makes the same keys and
bodies: run twice against one deployment, the second run is a replay, and must be answered as one.
Keys and bodies are kept as bytes in columns; a run of 100,000 takes some 40 MB, and the sender has
nothing left to do but to write them out. They are also made by column: each choice is made for all
intents in one go, and a body is joined from parts that are JSON already.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
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
_STREAM = 1_000  # choices made in one go where nobody knows how many there will be
_VAIN_MAX = 20


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
    times = array("d", [at * duration_s for at in profile.shape.times(count, random)])
    due, index = _with_repeats(times, profile, random)
    prefix = f"{seed:x}-{count}-o-".encode()
    keys = [b"%b%d" % (prefix, i) for i in range(count)]
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
    locales = _chosen(profile.people.locales, len(users), random)
    bodies = [
        _encode({"user_id": user, "campaign_id": goods.campaign_id, "locale": locale})
        for user, locale in zip(users, locales, strict=True)
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
    dealt = _Wallet(profile, coupons, random).deal(count)
    carts = _carts(profile.cart, goods.skus, count, random)
    campaign = _encode(goods.campaign_id)
    tails = {
        b',"campaign_id":%b,"locale":%b' % (campaign, _encode(locale)): weight
        for locale, weight in profile.people.locales.items()
    }
    bodies = []
    for (name, code), cart, tail in zip(dealt, carts, _chosen(tails, count, random), strict=True):
        user = _encode(name)
        coupon = b"" if code is None else b',"coupon_code":%b' % _encode(code)
        bodies.append(
            b'{"user_id":%b,"lines":[%b],"conversation_id":"c-%b%b%b}'
            % (user, cart, user[1:], tail, coupon)
        )
    return bodies, [name for name, _ in dealt]


class _Wallet:
    """Deals users and codes by the profile's mix; each good coupon is dealt once."""

    def __init__(self, profile: Profile, coupons: Sequence[Coupon], random: Random) -> None:
        mix = profile.mix
        self._random = random
        self._people = profile.people
        self._unused = list(coupons)
        _shuffle(self._unused, random)
        self._all = tuple(self._unused)
        self._used: list[Coupon] = []
        odd = {
            self._none: mix.no_coupon,
            self._second: mix.second_use,
            self._anothers: mix.anothers_coupon,
            self._forged: mix.forged_coupon,
            self._bad: mix.bad_coupon,
        }
        self._kinds = odd | {self._good: max(0.0, 1.0 - sum(odd.values()))}

    def deal(self, count: int) -> list[tuple[str, str | None]]:
        """Deal to `count` intents, in the order of their sending."""
        if not self._all:
            return [self._none() for _ in range(count)]
        return [draw() for draw in _chosen(self._kinds, count, self._random)]

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


def _chosen(weights: Mapping[T, float], count: int, random: Random) -> list[T]:
    """Choose `count` times by weight; nothing is left to chance where there is no choice."""
    possible = {option: weight for option, weight in weights.items() if weight > 0}
    if len(possible) == 1:
        return [*possible] * count
    edges = list(accumulate(possible.values()))
    return random.choices(list(possible), cum_weights=edges, k=count)


def _shuffle(deck: list[T], random: Random) -> None:
    """Shuffle in place: Fisher and Yates, as `Random.shuffle` in a third of its time.

    That one also evens out a bias of 1 in 2**53 / len(deck).
    """
    draw = random.random
    for last in range(len(deck) - 1, 0, -1):
        other = int(draw() * (last + 1))
        deck[last], deck[other] = deck[other], deck[last]


def _carts(cart: Cart, offered: Sequence[str], count: int, random: Random) -> Iterator[bytes]:
    """Make carts as JSON: how many lines, which SKUs, how many of each."""
    skus = [sku for sku in cart.skus if sku in offered] or list(offered)
    weights = {
        (sku, b'{"sku":%b,"quantity":%d}' % (_encode(sku), quantity)): weight / rank**cart.zipf
        for rank, sku in enumerate(skus, start=1)
        for quantity, weight in enumerate(cart.quantities, start=1)
    }
    possible = [line for line, weight in weights.items() if weight > 0]
    by_popularity = dict(sorted(possible, key=lambda line: -weights[line]))
    lines = _stream(weights, random)
    for size in _chosen(dict(enumerate(cart.lines, start=1)), count, random):
        if size == 1:
            yield next(lines)[1]
            continue
        # An intent names each SKU in one line: one that is drawn again is drawn in vain.
        chosen, wanted = dict(islice(lines, size)), min(size, len(skus))
        for _ in range(_VAIN_MAX):
            if len(chosen) == wanted:
                break
            chosen.update([next(lines)])
        else:  # nearly all want the same one: fill up with what is next in popularity
            others = (line for line in by_popularity.items() if line[0] not in chosen)
            chosen.update(islice(others, wanted - len(chosen)))
        yield b",".join(chosen.values())


def _stream(weights: Mapping[T, float], random: Random) -> Iterator[T]:
    """Choose by weight, again and again."""
    while True:
        yield from _chosen(weights, _STREAM, random)


def _with_repeats(
    times: array[float], profile: Profile, random: Random
) -> tuple[array[float], array[int]]:
    """Add the sends of repeated keys, none later than the last first send."""
    count = len(times)
    repeated = random.sample(range(count), round(profile.mix.repeated_keys * count))
    if not repeated:
        return times, array("l", range(count))
    within_s = profile.mix.repeated_within_s
    again = sorted((min(times[i] + random.random() * within_s, times[-1]), i) for i in repeated)
    due = times + array("d", [at for at, _ in again])
    # Two rising runs, which a stable sort only has to merge: a repeat stays behind its first send.
    order = sorted(range(len(due)), key=due.__getitem__)
    index = [*range(count), *(i for _, i in again)]
    return array("d", [due[n] for n in order]), array("l", [index[n] for n in order])
