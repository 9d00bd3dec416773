"""The workload: whom the driver plays. Pure: the same seed plays the same people in the same order.

Most buy what is free and plentiful; some redeem coupons, and some of those twice, or somebody else's,
or a forged one; some want what is scarce; some are greedy and run into their limit; some must pay, and
pay, cancel or leave; some post the same intent twice at once, and some come back with the same key and
another wish. Carts of two name their items in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import Final, Literal

import msgspec
from msgspec import Struct

Coupon = tuple[str, str]  # user id, coupon code
Ending = Literal["pay", "cancel", "leave"]

HOT: Final = "hot"
WARM: Final = "warm"
RARE: Final = "rare"  # scarce, free
PRICED: Final = "priced"

_TTL_MS: Final = (
    600_000  # nobody runs late: a fault lasts seconds, and lateness has tests of its own
)
_GREEDY_USERS: Final = 5
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FORGED_AT: Final = 6  # letters from the end: inside the signature

_encode = msgspec.json.Encoder().encode


class Wish(Struct, frozen=True, kw_only=True):
    """One intent, and how its buyer behaves."""

    key: str
    user: str
    kind: Literal["order", "issuance"]
    body: bytes
    units: dict[str, int]
    coupon: bool = False
    waits: bool = False  # asks to be told the outcome with the answer
    twin: bool = False  # posts it twice at once
    rebody: bytes = b""  # later comes with this other wish under the same key
    ending: Ending = "leave"

    @property
    def path(self) -> str:
        """Where it is posted."""
        return "/v1/intents" if self.kind == "order" else "/v1/coupons"


def everyday(campaign_id: str, coupons: Sequence[Coupon], seed: int) -> Iterator[Wish]:
    """Play people of every kind, for ever."""
    return _Crowd(campaign_id, coupons, Random(f"workload/{seed}")).play()


def sell_out(campaign_id: str, coupons: Sequence[Coupon], seed: int) -> Iterator[Wish]:
    """Play buyers who all want one unit of the same scarce item, for ever."""
    crowd = _Crowd(campaign_id, coupons, Random(f"sell-out/{seed}"))
    while True:
        yield crowd.order({RARE: 1})


def plentiful(campaign_id: str, coupons: Sequence[Coupon], seed: int) -> Iterator[Wish]:
    """Play buyers who all want one unit of what there is enough of: nobody has to ask again."""
    crowd = _Crowd(campaign_id, coupons, Random(f"plentiful/{seed}"))
    while True:
        yield crowd.order({HOT: 1})


PLAYS: Final = {"everyday": everyday, "sell-out": sell_out, "plentiful": plentiful}


def probes(campaign_id: str) -> Iterator[Wish]:
    """Play new buyers of what is free and plentiful: a system that serves at all serves them."""
    for number in count(1):
        wish = {
            "user_id": f"probe-{number}",
            "campaign_id": campaign_id,
            "lines": [{"sku": HOT, "quantity": 1}],
        }
        yield Wish(
            key=f"{campaign_id}-probe-{number}",
            user=f"probe-{number}",
            kind="order",
            body=_encode(wish),
            units={HOT: 1},
        )


class _Crowd:
    def __init__(self, campaign_id: str, coupons: Sequence[Coupon], random: Random) -> None:
        self._campaign_id = campaign_id
        self._fresh = list(reversed(coupons))
        self._used: list[Coupon] = []
        self._random = random
        self._number = 0
        self._kinds: Mapping[Callable[[], Wish], int] = {
            self._hot: 40,
            self._cart: 10,
            self._redeeming: 20,
            self._redeeming_again: 5,
            self._thieving: 3,
            self._forging: 4,
            self._scarce: 6,
            self._greedy: 4,
            self._issuance: 10,
            self._paying: 4,
        }

    def play(self) -> Iterator[Wish]:
        while True:
            (kind,) = self._random.choices([*self._kinds], [*self._kinds.values()])
            yield kind()

    def order(
        self,
        units: dict[str, int],
        *,
        user: str = "",
        code: str = "",
        ending: Ending = "leave",
        rebody: bool = False,
    ) -> Wish:
        self._number += 1
        user = user or f"u-{self._number}"
        return Wish(
            key=f"{self._campaign_id}-{self._number}",
            user=user,
            kind="order",
            body=self._body(user, units, code),
            units=units,
            coupon=bool(code),
            waits=self._random.random() < 0.1,
            twin=self._random.random() < 0.05,
            rebody=self._body(user, {**units, HOT: 3}, code) if rebody else b"",
            ending=ending,
        )

    def _body(self, user: str, units: Mapping[str, int], code: str) -> bytes:
        wish = {
            "user_id": user,
            "campaign_id": self._campaign_id,
            "lines": [{"sku": sku, "quantity": count} for sku, count in units.items()],
            "ttl_ms": _TTL_MS,
        }
        return _encode(wish | {"coupon_code": code} if code else wish)

    def _hot(self) -> Wish:
        return self.order({HOT: 1}, rebody=self._random.random() < 0.05)

    def _cart(self) -> Wish:
        skus = self._random.sample([HOT, WARM], 2)
        return self.order({sku: 1 + self._random.randrange(2) for sku in skus})

    def _scarce(self) -> Wish:
        return self.order({RARE: 1 + self._random.randrange(2)})

    def _greedy(self) -> Wish:
        return self.order({HOT: 1}, user=f"greedy-{self._random.randrange(_GREEDY_USERS)}")

    def _redeeming(self) -> Wish:
        if not self._fresh:
            return self._hot()
        user, code = self._fresh.pop()
        self._used.append((user, code))
        return self.order({PRICED: 1}, user=user, code=code)

    def _redeeming_again(self) -> Wish:
        if not self._used:
            return self._hot()
        user, code = self._random.choice(self._used)
        return self.order({PRICED: 1}, user=user, code=code)

    def _thieving(self) -> Wish:
        if not self._fresh:
            return self._hot()
        return self.order({PRICED: 1}, user="thief", code=self._random.choice(self._fresh)[1])

    def _forging(self) -> Wish:
        if not self._fresh:
            return self._hot()
        user, code = self._fresh[-1]
        at = max(0, len(code) - _FORGED_AT)
        other = self._random.choice(_BASE32.replace(code[at].upper(), ""))
        return self.order({PRICED: 1}, user=user, code=code[:at] + other + code[at + 1 :])

    def _issuance(self) -> Wish:
        self._number += 1
        user = f"u-{self._number}"
        return Wish(
            key=f"{self._campaign_id}-{self._number}",
            user=user,
            kind="issuance",
            body=_encode({"user_id": user, "campaign_id": self._campaign_id}),
            units={},
        )

    def _paying(self) -> Wish:
        ending: Ending = self._random.choice(("pay", "cancel", "leave"))
        return self.order({PRICED: 1}, ending=ending)
