"""Payment, cancel and expiry on the real PostgreSQL: each takes effect once, however they meet."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import psycopg
import pytest
from kit import World, at_once, comes_true, ids_of, order, working

from tests.factories import COUPON, GATEWAY, PRICE
from workers.domain.lifecycle import Answer
from workers.store import lifecycle
from workers.store.pool import WORKER, Bounds, Connection

FIRST = UUID(int=0)
CLIENTS = 20


@pytest.fixture
def change(world: World) -> Connection:
    """A connection with the worker's rights."""
    return world.connection(WORKER)


def _sell(world: World, count: int = 1, **intent: object) -> list[UUID]:
    """Orders of one tea each, awaiting payment unless a coupon or the price says otherwise."""
    batch = [order(f"u-{n}", **intent) for n in range(count)]  # type: ignore[arg-type]
    world.intake().submit(batch)
    report = world.processor().run(ids_of(batch))
    assert report.outcomes == {"committed": count}
    return ids_of(batch)


def _make_due(world: World, order_ids: Sequence[UUID]) -> None:
    world.admin.execute(
        "UPDATE orders SET payment_deadline = now() - interval '1 ms' WHERE order_id = ANY(%s)",
        (list(order_ids),),
    )


def _status(world: World, order_id: UUID) -> str:
    return str(world.value("SELECT status FROM orders WHERE order_id = %s", order_id))


def _payments(world: World) -> Counter[str]:
    return Counter(status for (status,) in world.rows("SELECT status FROM payments"))


def _pay(
    connection: Connection, order_id: UUID, reference: str = "p", amount: int = PRICE
) -> Answer:
    done = lifecycle.pay(connection, order_id, GATEWAY, reference, amount)
    assert done is not None
    return done.answer


def _cancel(connection: Connection, order_id: UUID) -> Answer:
    done = lifecycle.cancel(connection, order_id, GATEWAY)
    assert done is not None
    return done.answer


def _race(clients: Sequence[Connection], *moves: Callable[[Connection], object]) -> Counter[object]:
    """Let all clients make these moves in turn, at one moment."""
    pairs = zip(clients, itertools.cycle(moves), strict=False)
    return Counter(at_once([partial(move, client) for client, move in pairs]))


# One after the other -----------------------------------------------------------------------------


def test_a_payment_turns_reserved_units_into_sold_ones(world: World, change: Connection) -> None:
    """Payment confirms; the same reference again changes nothing; another is owed back."""
    (order_id,) = _sell(world)
    assert world.stock_of() == (999, 1, 0)
    answers = [_pay(change, order_id, reference) for reference in ("a", "a", "b", "b")]
    assert answers == [
        Answer.PAID,
        Answer.ALREADY_PAID,
        Answer.RECORDED_FOR_REFUND,
        Answer.RECORDED_FOR_REFUND,
    ]
    assert world.stock_of() == (999, 0, 1)
    assert _payments(world) == {"accepted": 1, "refund_due": 1}
    world.assert_clean()


def test_a_wrong_amount_changes_nothing(world: World, change: Connection) -> None:
    """Neither too little, nor too much, nor nothing, is recorded."""
    (order_id,) = _sell(world)
    answers = {_pay(change, order_id, "p", amount) for amount in (PRICE - 1, PRICE + 1, 0)}
    assert answers == {Answer.AMOUNT_WRONG}
    assert _status(world, order_id) == "awaiting_payment"
    assert _payments(world) == {}
    world.assert_clean()


def test_another_gateways_order_is_not_to_be_found(world: World, change: Connection) -> None:
    """It is told in the same way as one that does not exist."""
    (order_id,) = _sell(world)
    assert lifecycle.pay(change, order_id, "other", "p", PRICE) is None
    assert lifecycle.cancel(change, order_id, "other") is None
    assert lifecycle.cancel(change, UUID(int=1), GATEWAY) is None
    assert _status(world, order_id) == "awaiting_payment"


def test_a_late_payment_expires_the_order_and_is_owed_back(
    world: World, change: Connection
) -> None:
    """Past the deadline nothing is sold, whether the sweeper came or not; no money is forgotten."""
    swept, unswept = _sell(world, 2)
    _make_due(world, [swept])
    assert lifecycle.expire_due(change, 10) == 1
    _make_due(world, [unswept])
    for order_id in (swept, unswept):
        assert _pay(change, order_id) is Answer.PAYMENT_TOO_LATE
        assert _pay(change, order_id) is Answer.PAYMENT_TOO_LATE
        assert _status(world, order_id) == "expired"
        assert _cancel(change, order_id) is Answer.NOT_CANCELLABLE
    assert lifecycle.expire_due(change, 10) == 0
    assert _payments(world) == {"refund_due": 2}
    assert world.stock_of() == (1000, 0, 0)
    world.assert_clean()


def test_cancelling_returns_units_coupon_budget_and_limit_once(
    world: World, change: Connection
) -> None:
    """Whether confirmed or not; and the coupon buys again."""
    world.admin.execute("UPDATE campaigns SET orders_per_user_max = 1")
    (code,) = world.issue(["u-0"])
    for lines in ([("tea", 1)], [("tea", 2)], [("tea", 1)]):
        (order_id,) = _sell(world, lines=lines, coupon_code=code)
        assert _cancel(change, order_id) is Answer.CANCELLED
        assert _cancel(change, order_id) is Answer.ALREADY_CANCELLED
        assert world.rows("SELECT reserved, spent FROM budgets") == [(COUPON, 0)]
        assert world.stock_of() == (1000, 0, 0)
        world.assert_clean()


def test_a_payment_for_a_cancelled_order_is_owed_back(world: World, change: Connection) -> None:
    """And a cancelled order's own payment falls due for refund."""
    paid, unpaid = _sell(world, 2)
    _pay(change, paid)
    _cancel(change, paid)
    _cancel(change, unpaid)
    assert _pay(change, unpaid) is Answer.RECORDED_FOR_REFUND
    assert _payments(world) == {"refund_due": 2}
    world.assert_clean()


# Expiry ------------------------------------------------------------------------------------------


def test_expiry_takes_what_is_due_and_no_more_than_it_may(world: World, change: Connection) -> None:
    """The oldest first, a bounded number at once; what is not due stays."""
    ids = _sell(world, 6)
    _make_due(world, ids[:5])
    assert [lifecycle.expire_due(change, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert [_status(world, order_id) for order_id in ids] == ["expired"] * 5 + ["awaiting_payment"]
    world.assert_clean()


def test_expiry_passes_by_an_order_that_a_payment_holds(world: World, change: Connection) -> None:
    """Nobody waits for a payment under way: it judges the deadline itself."""
    held, other = _sell(world, 2)
    _make_due(world, [held, other])
    with psycopg.connect(world.dsn) as payment:
        payment.execute("SELECT FROM tidegate.orders WHERE order_id = %s FOR UPDATE", (held,))
        begun = time.monotonic()
        assert lifecycle.expire_due(change, 10) == 1
        assert time.monotonic() - begun < 1
    assert (_status(world, held), _status(world, other)) == ("awaiting_payment", "expired")
    world.assert_clean()


def test_a_deadline_is_judged_after_the_wait_for_the_order(
    world: World, change: Connection
) -> None:
    """A payment that waited past the deadline for a lock is late by the clock read after it."""
    (order_id,) = _sell(world)
    world.admin.execute("UPDATE orders SET payment_deadline = now() + interval '200 ms'")
    with psycopg.connect(world.dsn) as other:
        other.execute("SELECT FROM tidegate.orders FOR UPDATE")
        release = lambda: (time.sleep(0.4), other.rollback())  # noqa: E731
        answer, _ = at_once([lambda: _pay(change, order_id), release])
    assert answer is Answer.PAYMENT_TOO_LATE
    world.assert_clean()


def test_expired_coupons_return_to_the_budget_all_they_held(
    world: World, change: Connection
) -> None:
    """A stretch at a time; redeemed ones stay as they are; twice returns nothing more."""
    codes = world.issue([f"u-{n}" for n in range(7)])
    _sell(world, coupon_code=codes[0])
    assert world.rows("SELECT reserved, spent FROM budgets") == [(6 * COUPON, PRICE)]
    assert lifecycle.expire_coupons(change, FIRST, 100) == (0, None)
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = now() - interval '1 s'")
    count, after = lifecycle.expire_coupons(change, FIRST, 4)
    assert count == 4
    assert after is not None
    assert lifecycle.expire_coupons(change, after, 4) == (2, None)
    assert lifecycle.expire_coupons(change, FIRST, 4) == (0, None)
    assert world.rows("SELECT reserved, spent FROM budgets") == [(0, PRICE)]
    world.assert_clean()


def test_coupons_that_need_nothing_are_walked_past_in_bounded_steps(
    world: World, change: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of redeemed coupons are looked at a stretch at a time; none while none is due."""
    monkeypatch.setattr(lifecycle, "STRETCH", 2)
    codes = world.issue([f"u-{n}" for n in range(7)])
    for n in range(5):
        batch = [order(f"u-{n}", coupon_code=codes[n])]
        world.intake().submit(batch)
    world.processor().run([])
    assert lifecycle.expire_coupons(change, FIRST, 2) == (0, None)
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = now() - interval '1 s'")
    steps: list[int] = []
    after: UUID | None = FIRST
    while after is not None:
        count, after = lifecycle.expire_coupons(change, after, 2)
        steps.append(count)
    assert steps == [0, 2, 0]
    world.assert_clean()


def test_no_coupon_expires_while_an_intent_of_its_time_is_undecided(
    world: World, change: Connection
) -> None:
    """A wait of our making takes no coupon from its holder."""
    (code,) = world.issue(["u-1"])
    posted = order("u-1", coupon_code=code)
    world.intake().submit([posted])
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = clock_timestamp()")
    assert lifecycle.expire_coupons(change, FIRST, 100) == (0, None)
    assert world.processor().run([]).outcomes == {"committed": 1}
    assert lifecycle.expire_coupons(change, FIRST, 100) == (0, None)
    world.assert_clean()


def test_a_coupon_that_comes_back_after_its_time_expires_too(
    world: World, change: Connection
) -> None:
    """An order cancelled late gives its coupon back, and the coupon its budget."""
    (code,) = world.issue(["u-0"])
    (order_id,) = _sell(world, coupon_code=code)
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = now() - interval '1 s'")
    assert lifecycle.expire_coupons(change, FIRST, 100) == (0, None)
    _cancel(change, order_id)
    assert lifecycle.expire_coupons(change, FIRST, 100) == (1, None)
    assert world.rows("SELECT reserved, spent FROM budgets") == [(0, 0)]
    world.assert_clean()


# All at once -------------------------------------------------------------------------------------


@pytest.fixture
def clients(world: World) -> list[Connection]:
    """Twenty connections with the worker's rights."""
    return [world.connection(WORKER) for _ in range(CLIENTS)]


def test_twenty_payments_of_one_reference_pay_once(world: World, clients: list[Connection]) -> None:
    """One pays, nineteen hear that it is paid."""
    (order_id,) = _sell(world)
    answers = _race(clients, lambda client: _pay(client, order_id))
    assert answers == {Answer.PAID: 1, Answer.ALREADY_PAID: CLIENTS - 1}
    assert _payments(world) == {"accepted": 1}
    world.assert_clean()


def test_twenty_payments_of_their_own_references_pay_once(
    world: World, clients: list[Connection]
) -> None:
    """One pays, the money of nineteen is recorded for refund."""
    (order_id,) = _sell(world)
    answers = _race(clients, lambda client: _pay(client, order_id, f"p-{id(client)}"))
    assert answers == {Answer.PAID: 1, Answer.RECORDED_FOR_REFUND: CLIENTS - 1}
    assert _payments(world) == {"accepted": 1, "refund_due": CLIENTS - 1}
    world.assert_clean()


@pytest.mark.parametrize("due", [False, True])
def test_payments_cancels_and_expiries_of_one_order_take_effect_once(
    world: World, clients: list[Connection], due: bool
) -> None:
    """Whoever comes first, units, coupon, budget and counter go back exactly once."""
    (code,) = world.issue(["u-0"])
    amount = 2 * PRICE - COUPON
    for number in range(6):
        (order_id,) = _sell(world, lines=[("tea", 2)], coupon_code=code)
        if due:
            _make_due(world, [order_id])
        answers = _race(
            clients,
            lambda client, o=order_id, n=number: _pay(client, o, f"p-{n}", amount),
            lambda client, o=order_id: _cancel(client, o),
            lambda client: lifecycle.expire_due(client, 10),
        )
        assert answers[Answer.PAID] <= (not due)
        assert answers[Answer.CANCELLED] <= 1
        assert answers[1] <= due
        assert _status(world, order_id) in (("cancelled", "expired") if due else ("cancelled",))
        assert world.stock_of() == (1000, 0, 0)
        assert world.rows("SELECT reserved, spent FROM budgets") == [(COUPON, 0)]
        world.assert_clean()


def test_expiry_and_sale_to_the_same_users_deadlock_nobody(world: World) -> None:
    """Orders of one good expire while the same users buy another: only their counters meet."""
    users = 150
    world.admin.execute(  # on disk in another order than by name, as users come
        "INSERT INTO user_counters SELECT 'spring', 'u-' || n, 'order', 0, 21"
        " FROM generate_series(149, 0, -1) AS n"
    )
    expirer = world.connection(WORKER)
    worker = world.processor("seller")
    for _ in range(12):
        order_ids = _sell(world, users)
        _make_due(world, order_ids)
        batch = [order(f"u-{n}", lines=[("bun", 1)]) for n in reversed(range(users))]
        world.intake().submit(batch)
        expired, report = at_once(
            [partial(lifecycle.expire_due, expirer, users), partial(worker.run, ids_of(batch))]
        )
        assert expired == users
        assert report.outcomes.total() == users
        world.admin.execute("UPDATE stock SET initial = initial + 150, available = available + 150")
    assert world.deadlocks() == 0


@pytest.mark.slow
def test_the_lives_of_orders_and_the_sale_of_others_deadlock_nobody(world: World) -> None:
    """Payment, cancel, expiry and batches take their locks in one order, down to the counters."""
    world.admin.execute("UPDATE campaigns SET orders_per_user_max = 100000")
    order_ids: list[UUID] = []
    sold = threading.Event()
    lives = [_Life(world, order_ids, sold) for _ in range(4)]
    expiries = [_Expiry(world, sold) for _ in range(2)]
    with working(world, 3, batch_max=60) as counts:
        sales = [lambda n=n: _keep_selling(world, n, order_ids) for n in range(4)]
        everybody = [life.run for life in lives] + [expiry.run for expiry in expiries]

        def sell() -> None:
            try:
                at_once(sales)
            finally:
                sold.set()

        at_once([sell, *everybody])
    assert counts["failures"] == 0
    # That they met at all; how often is the machine's speed.
    assert sum(life.changes for life in lives) > 5
    assert sum(expiry.changes for expiry in expiries) > 5
    world.assert_clean()
    assert world.deadlocks() == 0


def _keep_selling(world: World, place: int, order_ids: list[UUID]) -> None:
    intake = world.intake()
    for _ in range(15):
        goods = [("tea", 1)] if place % 2 else [("bun", 1)]
        batch = [order(f"u-{n}", lines=goods) for n in range(30)]
        intake.submit(batch)
        order_ids += ids_of(batch)
        assert comes_true(lambda: world.open_count() < 100)


class _Life:
    """Pays and cancels the latest orders until nothing more is sold."""

    def __init__(self, world: World, order_ids: list[UUID], sold: threading.Event) -> None:
        self._order_ids, self._sold = order_ids, sold
        self._connection = world.connection(WORKER, Bounds(lock_timeout_ms=5_000))
        self.changes = 0

    def run(self) -> None:
        while not self._sold.is_set():
            for order_id in self._order_ids[-20:]:
                for done in (
                    lifecycle.pay(self._connection, order_id, GATEWAY, "p", PRICE),
                    order_id.int % 2 and lifecycle.cancel(self._connection, order_id, GATEWAY),
                ):
                    self.changes += bool(done and done.changed)


class _Expiry:
    """Makes orders due and expires them until nothing more is sold."""

    def __init__(self, world: World, sold: threading.Event) -> None:
        self._sold = sold
        self._owner, self._connection = world.connection(), world.connection(WORKER)
        self.changes = 0

    def run(self) -> None:
        while not self._sold.is_set():
            self._owner.execute(
                "UPDATE orders SET payment_deadline = now() WHERE order_id IN"
                " (SELECT order_id FROM orders WHERE status = 'awaiting_payment'"
                " ORDER BY order_id LIMIT 40 FOR UPDATE SKIP LOCKED)"
            )
            self.changes += lifecycle.expire_due(self._connection, 40)
