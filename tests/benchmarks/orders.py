"""Orders to be posted: two lines each, a coupon of its own each, the bytes made while sending.

Made late, since half a million finished posts would fill the sender's memory and its caches; one
takes about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from random import Random

from deploy.load.wire import Target

Coupon = tuple[str, str]  # user id, coupon code ("": an order without one)
Cart = tuple[str, str]  # two SKUs, a unit of each

HOT: Cart = ("hot", "warm")  # the pair that everybody wants
HOT_CAMPAIGN = "bench"
SPREAD_CAMPAIGN = "bench-spread"
SPREAD_SKUS = 1_000
SCARCE_CAMPAIGN = "bench-scarce"


def spread_campaign() -> str:
    """Return the text of a campaign like `bench.toml` with 1,000 SKUs."""
    items = "\n".join(
        f'[[items]]\nsku = "{sku}"\nmerchant = "tea-house"\nprice = 1800\nstock = 10_000_000'
        for sku in spread_skus()
    )
    return f"""{_head(SPREAD_CAMPAIGN)}
coupons_valid_until = 2099-12-31T00:00:00
budget = 300_000_000_000
coupons_per_user_max = 21
orders_per_user_max = 1_000_000
[coupon]
kind = "amount_off"
amount = 5000
minimum_total = 0
skus = []
[[merchants]]
id = "tea-house"
{items}
"""


def scarce_campaign(units: int) -> str:
    """Return the text of a campaign of one SKU that costs nothing and of which there is little."""
    return f"""{_head(SCARCE_CAMPAIGN)}
orders_per_user_max = 1
[[merchants]]
id = "tea-house"
[[items]]
sku = "scarce"
merchant = "tea-house"
price = 0
stock = {units}
"""


def _head(campaign_id: str) -> str:
    return f"""
[campaign]
id = "{campaign_id}"
currency = "CNY"
time_zone = "Asia/Shanghai"
starts_at = 2020-01-01T00:00:00
ends_at = 2099-12-31T00:00:00"""


def scarce_posts(to: Target) -> Callable[[int, str], bytes]:
    """Return what makes each buyer's post: one unit of the scarce SKU, with a ticket or without."""
    common = _common(to)

    def post(buyer: int, ticket: str) -> bytes:
        body = (
            f'{{"user_id":"u-{buyer}","campaign_id":"{SCARCE_CAMPAIGN}",'
            '"lines":[{"sku":"scarce","quantity":1}],"ttl_ms":600000}'
        )
        return _single(common, f"scarce-{buyer}", body, ticket)

    return post


def spread_skus() -> list[str]:
    """Name the SKUs of the spread campaign."""
    return [f"sku-{n:04}" for n in range(SPREAD_SKUS)]


def hot_carts() -> Callable[[], Cart]:
    """Everybody wants the same pair."""
    return lambda: HOT


def spread_carts(seed: int) -> Callable[[], Cart]:
    """Everybody wants some two of the 1,000, all alike popular."""
    random, skus = Random(f"carts/{seed}"), spread_skus()

    def draw() -> Cart:
        first, second = random.sample(skus, 2)
        return first, second

    return draw


class Orders:
    """One order for each coupon, as posts for one target; keys are of this run alone."""

    def __init__(
        self,
        to: Target,
        coupons: Sequence[Coupon],
        run: str,
        *,
        campaign: str = HOT_CAMPAIGN,
        cart: Callable[[], Cart] | None = None,
        wait_s: int = 0,
        ttl_ms: int = 60_000,
    ) -> None:
        """`wait_s` asks for the outcome in the answer; `ttl_ms` is each intent's."""
        self._common = _common(to)
        self._wait = f"Prefer: wait={wait_s}\r\n" if wait_s else ""
        self.coupons = coupons
        self.used = 0  # of the coupons, the first so many
        self._run = run
        self._campaign = campaign
        self._cart = cart or hot_carts()
        self._ttl_ms = ttl_ms

    def posts(self) -> Iterator[bytes]:
        """One intent per post."""
        for n, coupon in enumerate(self._each()):
            yield self._post(n, coupon)

    def post(self, n: int, ticket: str = "") -> bytes:
        """The post of the n-th coupon, again; `ticket` is its appointment's. Carts must not vary."""
        self.used = max(self.used, n + 1)
        return self._post(n, self.coupons[n], ticket)

    def batches(self, size: int) -> Iterator[bytes]:
        """`size` intents per post, as a JSON array; what is left over is not sent."""
        head = f"POST /v1/intents/batch{self._common}"
        items = (
            f'{{"idempotency_key":"{self._run}-{n}",{self._fields(coupon)}'
            for n, coupon in enumerate(self._each())
        )
        while len(part := list(islice(items, size))) == size:
            body = f"[{','.join(part)}]"
            yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def _post(self, n: int, coupon: Coupon, ticket: str = "") -> bytes:
        body = "{" + self._fields(coupon)
        return _single(self._common + self._wait, f"{self._run}-{n}", body, ticket)

    def _each(self) -> Iterator[Coupon]:
        for coupon in self.coupons:
            self.used += 1
            yield coupon

    def _fields(self, coupon: Coupon) -> str:
        user, code = coupon
        redeemed = f'"coupon_code":"{code}",' if code else ""
        first, second = self._cart()
        return (
            f'"user_id":"{user}","campaign_id":"{self._campaign}",'
            f'"lines":[{{"sku":"{first}","quantity":1}},{{"sku":"{second}","quantity":1}}],'
            f'{redeemed}"conversation_id":"c-{user}","locale":"zh-CN",'
            f'"ttl_ms":{self._ttl_ms}}}'
        )


def _common(to: Target) -> str:
    return (
        f" HTTP/1.1\r\nHost: {to.authority}\r\nAuthorization: Bearer {to.api_key}\r\n"
        "Content-Type: application/json\r\n"
    )


def _single(common: str, key: str, body: str, ticket: str) -> bytes:
    shown = f"Tidegate-Appointment: {ticket}\r\n" if ticket else ""
    return (
        f"POST /v1/intents{common}{shown}Idempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def wishes(to: Target, run: str, *, ttl_ms: int = 60_000) -> Iterator[bytes]:
    """Ask for one coupon of the hot campaign per post, each for a user of its own, without end."""
    head = f"POST /v1/coupons{_common(to)}Idempotency-Key: {run}-"
    for n in count():
        body = f'{{"user_id":"{run}-{n}","campaign_id":"{HOT_CAMPAIGN}","ttl_ms":{ttl_ms}}}'
        yield f"{head}{n}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
