"""Balances of what is scarce, from the batch that changed them to who is refused by them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from kit import comes_true

from config.settings import Governor as GovernorSettings
from config.settings import Postgres, Secrets, Settings, Valkey
from producer.answers import Accepted, Answer, NotAccepted
from producer.limits import Rules
from tests.factories import (
    COUPON,
    MASTER,
    PRICE,
    Shop,
    add_campaign,
    give_coupons,
    one,
    open_gate,
    open_shop,
    owner,
)
from workers.contract.admission import Balance
from workers.contract.names import gate_names
from workers.contract.packing import BALANCE_AGE_US_MAX
from workers.domain.intent import Line
from workers.domain.odds import odds
from workers.runtime.bootstrap import announcer
from workers.runtime.governor import build_governor
from workers.service.process_batch import Processor
from workers.store.pool import WORKER, Bounds, connect
from workers.store.session import BatchSession

NAMES = gate_names("tidegate:")  # as of `factories.open_gate`
TEA, BUDGET = "stock:spring:tea", "budget:spring"
ONE_TEA = (Line("tea", 1),)


class Counter:
    """A shop whose workers tell the gate, and whose tellings are kept."""

    def __init__(self, shop: Shop, valkey_url: str, scarce_max: int) -> None:
        self.shop = shop
        self.told: list[Balance] = []
        self.valkey = redis.Redis.from_url(valkey_url)
        self._tell = announcer(open_gate(valkey_url))
        self._scarce_max = scarce_max
        shop.processor._announce = self.tell
        shop.processor._scarce_max = scarce_max

    def tell(self, outcomes: Any, balances: Any) -> None:
        """Tell the gate, as a worker does."""
        self.told += balances
        self._tell(outcomes, balances)

    def post(self, user: str = "u-9", **fields: Any) -> Answer:
        """Post the wish for a tea; return the answer."""
        return self.shop.intake.submit([self.shop.order(user, **{"lines": ONE_TEA} | fields)])[0]

    def known(self, key: str = TEA) -> tuple[int, int, int]:
        """What the gate was told last: version, available, reserved."""
        version, available, reserved = self._fields(key)[:3]
        return version, available, reserved

    def told_us(self, key: str = TEA) -> int:
        """When, by the gate's clock."""
        return int(self._fields(key)[3])

    def now_us(self) -> int:
        """The gate's clock."""
        seconds, microseconds = self.valkey.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def _fields(self, key: str) -> list[Any]:
        fields: list[Any] = msgspec.msgpack.decode(self.valkey.hget(NAMES.balances, key) or b"")
        return fields

    @contextmanager
    def governed(self, dsn: str, valkey_url: str) -> Iterator[None]:
        """A governor that ticks for as long as the block lasts."""
        settings = Settings(
            postgres=Postgres(dsn=dsn),
            valkey=Valkey(url=valkey_url, key_prefix="tidegate:"),
            secrets=Secrets(master=MASTER),
            governor=GovernorSettings(interval_ms=100, scarce_units_max=self._scarce_max),
        )
        governor, ending = build_governor(settings, _Deaf()), threading.Event()  # type: ignore[arg-type]

        def tick() -> None:
            while not ending.wait(0.1):
                governor.tick()

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


class _Deaf:
    """A governor's ear that hears nothing."""

    def take(self) -> None:
        return None


@contextmanager
def counter(dsn: str, valkey_url: str, scarce_max: int = 100, **campaign: Any) -> Iterator[Counter]:
    add_campaign(dsn, **campaign)
    with open_shop(dsn, valkey_url) as shop:
        opened = Counter(shop, valkey_url, scarce_max)
        try:
            yield opened
        finally:
            opened.valkey.close()


def row_of(dsn: str, sku: str = "tea") -> tuple[int, int, int]:
    """Version, available and reserved, as committed."""
    with owner(dsn) as connection:
        found = connection.execute(
            "SELECT version, available, reserved FROM stock WHERE sku = %s", (sku,)
        ).fetchone()
    assert found is not None
    return found[0], found[1], found[2]


def test_a_batch_tells_what_it_left_of_what_is_scarce_as_it_was_committed(
    dsn: str, valkey_url: str
) -> None:
    """Reserved and sold; the version is the row's own. Of the plentiful bun it tells nothing."""
    with counter(dsn, valkey_url, stock={"tea": 102, "bun": 103}) as world:
        shop = world.shop
        [coupon] = give_coupons(dsn, ["u-1"])
        free = shop.order("u-1", coupon_code=shop.code(coupon))  # a tea and a bun: some is to pay
        shop.sell(free, shop.order("u-2"))
        assert [balance.key for balance in world.told] == [TEA]
        assert world.known() == row_of(dsn) == (1, 100, 2)
        shop.sell(shop.order("u-3", coupon_code=None, lines=(Line("tea", 30),)))
        assert world.known() == row_of(dsn) == (2, 70, 32)
        shop.sell(shop.order("u-4"))
        assert {balance.key for balance in world.told} == {TEA, "stock:spring:bun"}


def test_a_budget_is_scarce_with_as_many_coupons(dsn: str, valkey_url: str) -> None:
    """Issuing holds the greatest value; redeeming spends, and gives the rest back."""
    with counter(dsn, valkey_url, 3, budget=5 * COUPON) as world:
        shop = world.shop
        first, *_ = shop.sell(shop.issuance("u-1"))
        assert world.told == []  # four more can be given out
        shop.sell(shop.issuance("u-2"))
        assert world.told == [Balance(BUDGET, 2, 3 * COUPON, 2 * COUPON)]
        shop.sell(shop.order("u-1", lines=ONE_TEA, coupon_code=shop.code(first)))
        spent, version = PRICE, one(dsn, "SELECT version FROM budgets")
        assert world.known(BUDGET) == (2, 3 * COUPON, 2 * COUPON)  # more is free than is scarce
        shop.sell(shop.issuance("u-3"))
        left = 5 * COUPON - 2 * COUPON - spent
        assert world.known(BUDGET) == (version + 1, left, 2 * COUPON)


def test_what_changed_nothing_is_told_nothing(dsn: str, valkey_url: str) -> None:
    with counter(dsn, valkey_url, stock={"tea": 1}) as world:
        world.shop.accept(world.shop.order("u-1", lines=(Line("tea", 2),)))
        assert world.shop.work().outcomes == {"sold_out": 1}
        assert world.told == []


def test_versions_only_grow_however_many_workers_tell_in_whatever_order(
    dsn: str, valkey_url: str
) -> None:
    """Each version is told once, as its commit left the row; the gate ends with the last."""
    with counter(dsn, valkey_url, 1_000, stock={"tea": 400}) as world:
        world.shop.accept(*(world.shop.order(f"u-{n}", lines=ONE_TEA) for n in range(300)))
        names = itertools.count()
        errors: list[BaseException] = []

        def work() -> None:
            name = f"w-{next(names)}"
            session = BatchSession(lambda: connect(dsn, WORKER, Bounds(), name=name), name)
            processor = Processor(session, world.tell, batch_max=7, scarce_max=1_000)
            try:
                while processor.run([], until=time.monotonic() + 0.2).claimed:
                    pass
            except BaseException as error:
                errors.append(error)
            finally:
                session.close()

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        world.shop.work()
        assert errors == []
        versions = [balance.version for balance in world.told]
        assert sorted(versions) == list(range(1, len(versions) + 1))
        in_order = sorted(world.told, key=lambda balance: balance.version)
        left = [balance.available for balance in in_order]
        assert left == sorted(left, reverse=True)
        assert world.known() == row_of(dsn)
        assert world.known()[1] == 100


@pytest.mark.parametrize("paid", [False, True])
def test_units_that_come_back_reopen_what_was_shut(dsn: str, valkey_url: str, paid: bool) -> None:
    """A cancelled order gives them back; a governor reads it and tells, and the next is served."""
    with counter(dsn, valkey_url, stock={"tea": 1}) as world:
        (order_id,) = world.shop.sell(world.shop.order("u-1", lines=ONE_TEA))
        if paid:
            assert world.shop.pay(order_id, PRICE) == "paid"
        with world.governed(dsn, valkey_url):
            reason = ("sold_out", True) if paid else ("likely_sold_out", False)

            def shut() -> bool:
                answer = world.post()
                return isinstance(answer, NotAccepted) and (answer.reason, answer.final) == reason

            assert comes_true(shut)
            assert world.shop.cancel(order_id) == "cancelled"
            assert comes_true(lambda: world.known()[1:] == (1, 0))
            assert isinstance(world.post("u-2"), Accepted)
        assert world.shop.work().outcomes == {"committed": 1}


def test_the_odds_are_by_what_share_takes_and_of_a_budget_by_coupons(
    dsn: str, valkey_url: str
) -> None:
    """Not by minor units: ten coupons in flight are ten chances, and not 25,000."""
    with counter(dsn, valkey_url, stock={"tea": 11}, budget=11 * COUPON) as world:
        shop = world.shop
        shop.intake._admitting._taken_share = lambda: 0.5
        shop.intake._admitting._rules = lambda: Rules(coupon_values={"spring": COUPON})
        shop.sell(shop.order("u-0", lines=ONE_TEA), shop.issuance("u-0"))
        shop.accept(*(shop.order(f"u-{n}", lines=ONE_TEA) for n in range(10)))
        shop.accept(*(shop.issuance(f"u-{n}") for n in range(10)))
        ordered = world.post()
        issued = shop.intake.submit([shop.issuance("u-9")])[0]
        chance = odds(ahead=10, left=10, amount=1, taken_share=0.5)
        assert 0.9 < chance < 1
        assert ordered == NotAccepted("likely_sold_out", False, chance)
        assert issued == NotAccepted("budget_exhausted", False, chance)


def test_a_killed_teller_leaves_nothing_stale_beyond_three_seconds(
    dsn: str, valkey_url: str
) -> None:
    """Nobody tells that units came back; who is refused is so by what was told lately, or not."""
    assert BALANCE_AGE_US_MAX == 3_000_000
    with counter(dsn, valkey_url, stock={"tea": 1}) as world:
        (order_id,) = world.shop.sell(world.shop.order("u-1", lines=ONE_TEA))
        assert world.shop.cancel(order_id) == "cancelled"
        refused_us = []
        for number in itertools.count():
            asked_us = world.now_us()
            if isinstance(world.post(f"u-{number}"), Accepted):
                break
            refused_us.append(asked_us)
            time.sleep(0.05)
        assert refused_us, "it was told, and held for a while"
        assert max(refused_us) - world.told_us() <= BALANCE_AGE_US_MAX
        assert world.shop.work().outcomes == {"committed": 1}
