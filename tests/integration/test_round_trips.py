"""What a batch asks of PostgreSQL, counted on the wire by a proxy that reads the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kit import World, ids_of, issuance, order
from postgres_proxy import PostgresProxy

from producer.answers import Accepted, Posted, Replayed

WARM_UP = 4  # statements are prepared at their third use, which costs a message of its own
FLUSHES_MAX = 6  # replies wanted before the end of a series; fewer where they come fast


@pytest.fixture
def proxy(world: World) -> Iterator[PostgresProxy]:
    with PostgresProxy(world.dsn) as opened:
        yield opened


def _cost(proxy: PostgresProxy, work: Callable[[], object]) -> tuple[int, int]:
    proxy.messages.clear()
    work()
    assert proxy.flushes <= FLUSHES_MAX
    return proxy.statements, proxy.syncs


def _orders(count: int, start: int = 0) -> list[Posted]:
    return [order(f"u-{n}", lines=[("tea", 1), ("bun", 1)]) for n in range(start, start + count)]


def test_an_intake_batch_of_500_costs_what_a_batch_of_1_costs(
    world: World, proxy: PostgresProxy
) -> None:
    """Acceptance is one statement and one round trip, however many are accepted."""
    intake = world.intake(dsn=proxy.dsn)
    for _ in range(WARM_UP):
        intake.submit(_orders(1))
    of_one = _cost(proxy, lambda: intake.submit(_orders(1)))
    of_many = _cost(proxy, lambda: intake.submit(_orders(500)))
    assert of_one == of_many == (1, 1)


def test_replaying_500_keys_costs_what_replaying_1_costs(
    world: World, proxy: PostgresProxy
) -> None:
    """A batch's known keys are looked up together: the append, the keys, what became of them."""
    intake = world.intake(dsn=proxy.dsn)
    first = [order(f"u-{n}", key=f"replayed-{n}") for n in range(500)]
    again = [order(f"u-{n}", key=f"replayed-{n}") for n in range(500)]
    assert all(isinstance(answer, Accepted) for answer in intake.submit(first))
    for _ in range(WARM_UP):
        intake.submit(again[:1])
    of_one = _cost(proxy, lambda: intake.submit(again[:1]))
    answers = []
    of_many = _cost(proxy, lambda: answers.extend(intake.submit(again)))
    assert all(isinstance(answer, Replayed) for answer in answers)
    assert of_one == of_many == (3, 3)


@pytest.mark.parametrize("kind", ["orders", "orders with coupons", "issuances"])
def test_a_worker_batch_of_500_costs_what_a_batch_of_1_costs(
    world: World, proxy: PostgresProxy, kind: str
) -> None:
    """The worker's statements and waits are the batch's, not its intents'."""
    intake, processor = world.intake(), world.processor(dsn=proxy.dsn)
    count = WARM_UP + 1 + 500
    batch = _orders(count)
    if kind == "issuances":
        batch = [issuance(f"u-{n}") for n in range(count)]
    elif kind == "orders with coupons":
        codes = world.issue([f"u-{n}" for n in range(count)])
        batch = [order(f"u-{n}", coupon_code=code) for n, code in enumerate(codes)]
    costs = []
    for start, end in [*((n, n + 1) for n in range(WARM_UP + 1)), (WARM_UP + 1, count)]:
        part = batch[start:end]
        intake.submit(part)
        costs.append(_cost(proxy, lambda part=part: processor.run(ids_of(part))))
    assert world.reasons() == {"committed": count * (2 if kind == "orders with coupons" else 1)}
    *_, of_one, of_many = costs
    assert of_one == of_many
    assert of_many[1] == 4, "claim, record, gather, apply"
