"""A campaign that is not active: told at the gate, unless a worker may know better."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from http_kit import ORDER, add_gateway, serve, settings_for
from kit import CODES, World, again, comes_true, issuance, order

from producer import limits
from producer.answers import Accepted, Answer, Conflict, NotAccepted, Posted, Replayed, Unanswered
from producer.intake import Intake
from producer.levels import LevelBook
from producer.limits import LimitBook
from producer.wiring import open_intake
from tests.factories import DAY, give_coupons
from workers.store.pool import PRODUCER, Bounds, Connection, connect

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
OVER = NotAccepted("campaign_not_active", final=True)


class Desk:
    """An intake whose rules are read from the database, as each process that admits reads them."""

    def __init__(self, world: World, book: LimitBook, intake: Intake) -> None:
        self.world = world
        self.book = book
        self.intake = intake

    def post(self, *batch: Posted) -> list[Answer]:
        """Post a batch."""
        return self.intake.submit(batch)

    def run(self, starts_in: timedelta, ends_in: timedelta) -> None:
        """Let the campaign start and end so far from now, and wait until the rules say so."""
        ends_at = self.world.value(
            "UPDATE campaigns SET starts_at = now() + %s, ends_at = now() + %s RETURNING ends_at",
            starts_in,
            ends_in,
        )
        assert comes_true(lambda: self.book.current().windows["spring"].ends_at == ends_at)


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    with reading(lambda: connect(world.dsn, PRODUCER, Bounds(), name="test-limits")) as book:
        intake = opened(world, book)
        yield Desk(world, book, intake)
        intake.close()


def opened(world: World, book: LimitBook) -> Intake:
    """An intake as a process opens it."""
    return open_intake(
        settings_for(world.dsn, world.valkey_url),
        "test-intake",
        book,
        LevelBook(),
        world.published.extend,
        CODES,
        accept_timeout_ms=5_000,
    )


@contextmanager
def reading(open_connection: Callable[[], Connection]) -> Iterator[LimitBook]:
    """A book of rules that is read again and again, until it is closed."""
    book = LimitBook(open_connection)
    book.start()
    try:
        assert book.loaded.wait(10)
        yield book
    finally:
        book.close()
    assert not book._thread.is_alive()


def test_nobody_is_admitted_before_the_rules_were_read_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts under a pause or a closed level knows nothing of it yet."""
    monkeypatch.setattr(limits, "FIRST_S_MAX", 0.0)
    book = LimitBook(lambda: connect(world.dsn, PRODUCER, Bounds(), name="test-limits"))
    intake = opened(world, book)
    assert intake.submit([order()]) == [Unanswered("no", "postgres")]
    assert world.gate is not None
    assert world.gate.in_flight() == 0
    book.start()
    assert book.loaded.wait(10)
    assert isinstance(intake.submit([order()])[0], Accepted)
    intake.close()
    book.close()


def test_of_a_campaign_that_is_over_nothing_is_journalled_or_in_flight(
    world: World, desk: Desk
) -> None:
    """Orders, orders with a coupon that is still valid, and wishes for coupons alike."""
    [coupon] = give_coupons(world.dsn, ["u-1"])
    desk.run(-DAY, -HOUR)
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = now() + interval '1 day'")
    redeeming = order("u-1", coupon_code=CODES.code_of(coupon))
    assert desk.post(order(), redeeming, issuance()) == [OVER] * 3
    assert world.value("SELECT count(*) FROM intents") == 0
    assert world.gate is not None
    assert world.gate.in_flight() == 0
    assert world.published == []


def test_of_a_campaign_to_come_it_is_told_when_it_starts(world: World, desk: Desk) -> None:
    desk.run(HOUR, DAY)
    starts_at = world.value("SELECT starts_at FROM campaigns")
    told = NotAccepted("campaign_not_active", final=False, try_again_at=starts_at)
    assert desk.post(order(), issuance()) == [told] * 2
    assert world.value("SELECT count(*) FROM intents") == 0


@pytest.mark.parametrize(("starts_in", "ends_in"), [(SECOND, DAY), (-DAY, -SECOND)])
def test_near_its_start_or_its_end_the_worker_decides(
    world: World, desk: Desk, starts_in: timedelta, ends_in: timedelta
) -> None:
    """When it was accepted counts, by the database's clock, and nobody else's."""
    desk.run(starts_in, ends_in)
    for answer in desk.post(order(), issuance()):
        assert isinstance(answer, Accepted)
    world.processor().run([])
    reasons = world.rows(
        "SELECT coalesce(reason, '') = 'campaign_not_active',"
        " starts_at <= accepted_at AND accepted_at < ends_at"
        " FROM outcomes JOIN intents USING (intent_id) JOIN campaigns USING (campaign_id)"
    )
    assert len(reasons) == 2
    assert all(refused is not active for refused, active in reasons)


def test_a_campaign_that_nobody_knows_is_the_workers_to_refuse(world: World, desk: Desk) -> None:
    """It may have been applied a moment ago."""
    (answer,) = desk.post(order(campaign_id="nowhere"))
    assert isinstance(answer, Accepted)
    assert world.processor().run([]).outcomes == {"campaign_not_active": 1}


def test_a_known_key_is_answered_from_the_journal_after_the_end(world: World, desk: Desk) -> None:
    """Never a false no; a key that is not known binds nothing, and is free when it goes on."""
    bought, open_still, late = order("u-1"), order("u-2"), order("u-3")
    desk.post(bought)
    world.processor().run([])
    desk.post(open_still)
    desk.run(-DAY, -HOUR)
    other = order("u-1", key=bought.idempotency_key, lines=(("bun", 1),))
    answers = desk.post(again(bought), again(open_still), other, late)
    assert [type(answer) for answer in answers] == [Replayed, Replayed, Conflict, NotAccepted]
    assert [a.resource.status for a in answers if isinstance(a, Replayed)] == [
        "committed",
        "accepted",
    ]
    desk.run(-DAY, DAY)
    assert isinstance(desk.post(again(late))[0], Accepted)


def test_an_extension_counts_within_a_second_even_if_nobody_can_read_of_it(world: World) -> None:
    """What was read a second ago refuses nobody; limits and windows hold."""
    world.admin.execute("UPDATE campaigns SET ends_at = now() - interval '1 h'")
    lent: list[Connection] = []

    def lend() -> Connection:
        if lent:
            raise psycopg.OperationalError("away")
        lent.append(connect(world.dsn, PRODUCER, Bounds(), name="test-limits"))
        return lent[0]

    with reading(lend) as book:
        assert comes_true(lambda: dict(book.current().inactive) == {"spring": None})
        lent[0].close()
        assert comes_true(lambda: not book.current().inactive)
        assert set(book.current().windows) == {"spring"}


def test_over_http_it_is_a_business_no_in_every_language(world: World) -> None:
    world.admin.execute("UPDATE campaigns SET ends_at = now() - interval '1 h'")
    add_gateway(world.dsn)
    with serve(settings_for(world.dsn, world.valkey_url)) as served:
        numbers = itertools.count()

        def is_told() -> bool:
            """An API that has just begun has read nothing yet, and lets the worker decide."""
            return served.post(key=f"k-{next(numbers)}").status_code == 200

        assert comes_true(is_told)
        messages = set()
        for locale in ("zh-CN", "en", "el"):
            reply = served.post({**ORDER, "locale": locale}, key=f"in-{locale}")
            assert reply.status_code == 200, reply.text
            told = reply.json()
            messages.add(told.pop("message"))
            assert told == {
                "status": "not_accepted",
                "reason": "campaign_not_active",
                "final": True,
                "odds": None,
                "try_again_at": None,
            }
        assert len(messages) == 3
