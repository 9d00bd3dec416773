"""Everybody at once: stock, coupons, keys and locks under real concurrency."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from typing import Any

import pytest
from kit import CODES, World, at_once, order, working

from producer.answers import Accepted, Answer, Conflict, Replayed
from tests.factories import PRICE, give_coupons

ROUNDS = 200
CLIENTS = 50

pytestmark = pytest.mark.slow


def _work_until_drained(dsn: str, name: str, buyers: int) -> None:
    with World(dsn) as world:
        processor = world.processor(name, batch_max=20)
        while world.value("SELECT count(*) FROM outcomes") < buyers:
            processor.run([])


@pytest.mark.parametrize("paying", ["with coupons", "nothing"])
def test_ten_thousand_buyers_of_a_hundred_units_end_in_exactly_a_hundred_sold(
    world: World, paying: str
) -> None:
    """Never more than there is, never less either; every buyer is told one thing once."""
    buyers = 10_000
    users = [f"u-{n}" for n in range(buyers)]
    codes: list[str | None] = [None] * buyers
    if paying == "with coupons":  # which lock the budget first, so that stock alone is not the gate
        codes = [CODES.code_of(coupon_id) for coupon_id in give_coupons(world.dsn, users)]
    else:
        world.admin.execute("UPDATE items SET price = 0")
    world.admin.execute("UPDATE stock SET initial = 100, available = 100 WHERE sku = 'tea'")
    world.admin.execute(
        "INSERT INTO ledger (batch_id, account, delta) SELECT b, 'stock:spring:tea:' || a, d"
        " FROM gen_random_uuid() b, (VALUES ('supply', 900), ('available', -900)) AS t(a, d)"
    )
    carts = [
        [order(user, coupon_code=code) for user, code in zip(users[i::4], codes[i::4], strict=True)]
        for i in range(4)
    ]
    fork = multiprocessing.get_context("fork")
    others = [
        fork.Process(target=_work_until_drained, args=(world.dsn, f"p{n}", buyers), daemon=True)
        for n in range(2)
    ]
    for process in others:
        process.start()

    def buy(cart: list[Any]) -> Counter[type[Answer]]:
        intake = world.intake()
        answers: Counter[type[Answer]] = Counter()
        for start in range(0, len(cart), 500):
            answers.update(type(answer) for answer in intake.submit(cart[start : start + 500]))
        return answers

    with working(world, 2, batch_max=20):  # small, so that many batches meet over the last units
        answers = sum(at_once([lambda cart=cart: buy(cart) for cart in carts]), Counter())
    for process in others:
        process.join(30)
        assert process.exitcode == 0
    assert answers == {Accepted: buyers}
    assert world.reasons() == {"committed": 100, "sold_out": buyers - 100}
    assert world.stock_of() == (0, 0, 100)
    assert world.value("SELECT spent FROM budgets") == (100 * PRICE if codes[0] else 0)
    world.assert_clean()


def _lift_user_limits(world: World) -> None:
    world.admin.execute(
        "UPDATE campaigns SET (orders_per_user_max, coupons_per_user_max) = (100000, 100000)"
    )


def _rounds(world: World, submit: Any) -> list[list[Answer]]:
    """Let all clients meet in each round; return the answers of each round."""
    intakes = [world.intake() for _ in range(CLIENTS)]
    met: list[list[Answer]] = [[] for _ in range(ROUNDS)]
    barrier = threading.Barrier(CLIENTS)

    def client(place: int) -> None:
        for number in range(ROUNDS):
            barrier.wait(30)
            met[number] += intakes[place].submit([submit(number, place)])

    at_once([lambda place=place: client(place) for place in range(CLIENTS)], timeout_s=120)
    return met


def test_fifty_who_redeem_one_coupon_at_once_redeem_it_once(world: World) -> None:
    """In each of 200 rounds one order is made, and the others are told why not."""
    user = "u-1"
    _lift_user_limits(world)
    coupons = give_coupons(world.dsn, [user] * ROUNDS)
    codes = [CODES.code_of(coupon_id) for coupon_id in coupons]
    with working(world, 3, batch_max=7):
        _rounds(world, lambda number, place: order(user, coupon_code=codes[number]))
    assert world.reasons() == {
        "committed": ROUNDS,
        "coupon_already_redeemed": ROUNDS * (CLIENTS - 1),
    }
    assert world.value("SELECT count(*) FROM redemptions") == ROUNDS
    assert world.value("SELECT count(DISTINCT coupon_id) FROM orders") == ROUNDS
    world.assert_clean()


def test_fifty_who_post_one_key_at_once_make_one_order(world: World) -> None:
    """In each of 200 rounds one is accepted; who says the same hears of it, others conflict."""
    _lift_user_limits(world)

    def post(number: int, place: int) -> Any:
        return order("u-1", key=f"round-{number}", lines=[("tea" if place % 2 else "bun", 1)])

    with working(world, 2):
        met = _rounds(world, post)
    for answers in met:
        (accepted,) = [answer for answer in answers if isinstance(answer, Accepted)]
        replays = [answer for answer in answers if isinstance(answer, Replayed)]
        conflicts = [answer for answer in answers if isinstance(answer, Conflict)]
        assert len(replays) == CLIENTS // 2 - 1
        assert len(conflicts) == CLIENTS // 2
        told = {replay.resource.intent_id for replay in replays} | {c.intent_id for c in conflicts}
        assert told == {accepted.intent_id}
    assert world.reasons() == {"committed": ROUNDS}
    world.assert_clean()


def test_carts_of_two_goods_in_opposite_order_deadlock_nobody(world: World) -> None:
    """Locks are taken in one global order, whatever the order of a cart."""
    _lift_user_limits(world)
    carts = [[("tea", 1), ("bun", 1)], [("bun", 1), ("tea", 1)]]

    def client(place: int) -> None:
        batch = [order(f"u-{(place + n) % 5}", lines=carts[place % 2]) for n in range(50)]
        intake = world.intake()
        for posted in batch:
            intake.submit([posted])

    with working(world, 8, batch_max=1) as counts:
        at_once([lambda place=place: client(place) for place in range(16)])
    assert world.reasons() == {"committed": 800}
    assert counts["failures"] == 0
    world.assert_clean()
    assert world.deadlocks() == 0
