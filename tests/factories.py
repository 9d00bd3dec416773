"""A shop for tests: a campaign on the real PostgreSQL, an intake, a gate, a worker.

    shop = open_shop(dsn, valkey_url)
    shop.accept(*shop.orders(3))
    shop.work()

Whoever needs less takes `add_campaign` and `owner` alone; they need no Valkey.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from producer.admitting import Admitting
from producer.answers import Accepted, Answer, Posted
from producer.intake import Intake
from producer.limits import Limits, Rules
from workers.contract.calendar import Calendar
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import Gate, open_client
from workers.contract.ids import uuid7, uuid7_many
from workers.contract.resource import IntentResource
from workers.contract.ticket import Tickets
from workers.domain.intent import IssuanceIntent, Line, OrderIntent
from workers.domain.overload import Level
from workers.service.process_batch import BatchReport, Processor
from workers.store import lifecycle
from workers.store.pool import OWNER, PRODUCER, WORKER, Bounds, Connection, connect
from workers.store.session import BatchSession

MASTER = "tests-only-" * 4
GATEWAY = "chat"
PRICE = 1_800  # minor units; of every item
COUPON = 2_500  # minor units; of every coupon
DAY = timedelta(days=1)

_keys = itertools.count(1)


@contextmanager
def owner(dsn: str) -> Iterator[Connection]:
    """Connect as the database's owner; each statement commits by itself."""
    bounds = Bounds(statement_timeout_ms=60_000)
    with connect(dsn, OWNER, bounds, name="test") as connection:
        yield connection


def one(dsn: str, query: str, *parameters: Any) -> Any:
    """Return the first column of the first row, as the owner sees it."""
    with owner(dsn) as connection:
        row = connection.execute(query.encode(), parameters).fetchone()
        return None if row is None else row[0]


def add_campaign(
    dsn: str,
    campaign_id: str = "spring",
    *,
    stock: Mapping[str, int] | None = None,
    budget: int = 100_000_000,
    coupon: int | None = COUPON,
    coupon_percent: int | None = None,
    orders_per_user_max: int = 21,
    coupons_per_user_max: int = 21,
    payment_window_ms: int = 900_000,
    opened: timedelta = DAY,
    closes: timedelta = DAY,
) -> None:
    """Add a campaign that opened `opened` ago and closes, with its coupons, in `closes`.

    `stock` is units by SKU (tea and bun, 1,000 of each); `budget` and `coupon` in minor units. A
    campaign without a coupon has no budget. The ledger opens with what there is.
    """
    units = {"tea": 1_000, "bun": 1_000} if stock is None else stock
    kind = None if coupon is None else "percent_off" if coupon_percent else "amount_off"
    with owner(dsn) as connection, connection.transaction():
        connection.execute(
            """INSERT INTO campaigns (campaign_id, currency, time_zone, starts_at, ends_at,
                   orders_per_user_max, coupons_per_user_max, payment_window_ms, coupon_kind,
                   coupon_amount, coupon_percent, coupon_minimum_total, coupon_skus,
                   coupons_valid_from, coupons_valid_until)
               SELECT %(id)s, 'CNY', 'Asia/Shanghai', now() - %(opened)s, now() + %(closes)s,
                   %(orders)s, %(coupons)s, %(window)s, %(kind)s::text, %(coupon)s,
                   %(percent)s, CASE WHEN %(kind)s::text IS NOT NULL THEN 0 END,
                   CASE WHEN %(kind)s::text IS NOT NULL THEN '{}'::text[] END,
                   CASE WHEN %(kind)s::text IS NOT NULL THEN now() - %(opened)s END,
                   CASE WHEN %(kind)s::text IS NOT NULL THEN now() + %(closes)s END""",
            {
                "id": campaign_id,
                "opened": opened,
                "closes": closes,
                "orders": orders_per_user_max,
                "coupons": coupons_per_user_max,
                "window": payment_window_ms,
                "kind": kind,
                "coupon": coupon,
                "percent": coupon_percent,
            },
        )
        connection.execute("INSERT INTO merchants VALUES ('tea-house') ON CONFLICT DO NOTHING")
        for sku, count in units.items():
            connection.execute(
                "INSERT INTO items VALUES (%s, %s, 'tea-house', %s)", (campaign_id, sku, PRICE)
            )
            connection.execute(
                "INSERT INTO stock (campaign_id, sku, initial, available) VALUES (%s, %s, %s, %s)",
                (campaign_id, sku, count, count),
            )
            _supply(connection, f"stock:{campaign_id}:{sku}", count)
        if coupon is not None:
            connection.execute("INSERT INTO budgets VALUES (%s, %s)", (campaign_id, budget))
            _supply(connection, f"budget:{campaign_id}", budget)


def _supply(connection: Connection, unit: str, amount: int) -> None:
    if amount:
        connection.execute(
            "INSERT INTO ledger (batch_id, account, delta) VALUES (%s, %s, %s), (%s, %s, %s)",
            ((batch := uuid7()), f"{unit}:supply", -amount, batch, f"{unit}:available", amount),
        )


def give_coupons(
    dsn: str, users: Sequence[str], campaign_id: str = "spring", value: int = COUPON
) -> list[UUID]:
    """Issue one coupon to each user in bulk, as ahead of a campaign; return the coupons' ids."""
    ids, batch = uuid7_many(len(users)), uuid7()
    held = value * len(users)
    with owner(dsn) as connection, connection.transaction():
        connection.execute(
            "INSERT INTO coupons SELECT *, now() FROM unnest(%s::uuid[], %s::text[], %s::text[], "
            "%s::bigint[])",
            (ids, [campaign_id] * len(ids), list(users), [value] * len(ids)),
        )
        connection.execute(
            """INSERT INTO user_counters AS c
               SELECT p.campaign_id, u, 'issuance', count(*), p.coupons_per_user_max
               FROM unnest(%s::text[]) AS u, campaigns p WHERE p.campaign_id = %s
               GROUP BY 1, 2, 5
               ON CONFLICT (campaign_id, user_id, kind) DO UPDATE SET used = c.used + excluded.used""",
            (list(users), campaign_id),
        )
        connection.execute(
            "UPDATE budgets SET reserved = reserved + %s WHERE campaign_id = %s",
            (held, campaign_id),
        )
        connection.execute(
            "INSERT INTO ledger (batch_id, account, delta) VALUES (%s, %s, %s), (%s, %s, %s)",
            (
                *(batch, f"budget:{campaign_id}:available", -held),
                *(batch, f"budget:{campaign_id}:reserved", held),
            ),
        )
    return ids


def open_gate(valkey_url: str, in_flight_max: int = 1_000_000) -> Gate:
    """Make a gate that knows that nothing is in flight, so that it admits at once."""
    client = open_client(valkey_url, timeout_ms=5_000)
    gate = Gate(client, key_prefix="tidegate:", in_flight_max=in_flight_max, unreconciled_rate=200)
    gate.reconcile(list)
    return gate


def admitting(gate: Gate, codes: CouponCodes, limits: Limits | None = None) -> Admitting:
    """Return what asks this gate under fixed limits, at level normal; nobody is booked."""
    unreached = open_client("redis://127.0.0.1:1/0", timeout_ms=100)
    rules = Rules(limits=limits or Limits())
    return Admitting(
        gate,
        Calendar(unreached, "unreached"),
        Tickets(MASTER),
        codes,
        lambda: rules,
        lambda: Level.NORMAL,
        lambda: None,
    )


class Shop:
    """Posts intents through the real intake and decides them with the real processor.

    `published` collects the ids of the hints, `told` the announced outcomes, `answers` the last
    answers of the intake.
    """

    def __init__(self, dsn: str, gate: Gate, batch_max: int = 500, **processor: Any) -> None:
        self.dsn = dsn
        self.codes = CouponCodes(MASTER)
        self.published: list[UUID] = []
        self.told: list[IntentResource] = []
        self.answers: list[Answer] = []
        self.intake = Intake(
            lambda: connect(dsn, PRODUCER, Bounds(), name="test-api"),
            gate,
            admitting(gate, self.codes),
            self.published.extend,
            self.codes,
            accept_timeout_ms=5_000,
            dispatch_after_ms=5_000,
        )
        self.session = BatchSession(lambda: connect(dsn, WORKER, Bounds(), name="test-worker"), "w")
        self.processor = Processor(
            self.session, lambda told, _: self.told.extend(told), batch_max=batch_max, **processor
        )

    def order(self, user_id: str = "u-1", **fields: Any) -> Posted:
        """Return the wish of a user for one tea and one bun; every field may be given."""
        given: dict[str, Any] = {
            "campaign_id": "spring",
            "lines": (Line("tea", 1), Line("bun", 1)),
        }
        return self._posted(OrderIntent(user_id=user_id, **given | fields))

    def issuance(self, user_id: str = "u-1", campaign_id: str = "spring", **fields: Any) -> Posted:
        """Return the wish of a user for a coupon."""
        return self._posted(IssuanceIntent(user_id=user_id, campaign_id=campaign_id, **fields))

    def orders(self, count: int, **fields: Any) -> list[Posted]:
        """Return the wishes of `count` users for a tea and a bun each."""
        return [self.order(f"u-{n}", **fields) for n in range(count)]

    def accept(self, *posted: Posted) -> list[UUID]:
        """Post intents as one batch, all of which must be accepted; return their ids."""
        self.answers = self.intake.submit(posted)
        assert all(isinstance(answer, Accepted) for answer in self.answers), self.answers
        return [one.intent_id for one in posted]

    def work(self, hinted: Sequence[UUID] = ()) -> BatchReport:
        """Decide all that is open and may be claimed."""
        return self.processor.run(hinted, until=float("inf"))

    def sell(self, *posted: Posted) -> list[UUID]:
        """Accept and decide; all must be committed."""
        ids = self.accept(*posted)
        report = self.work(ids)
        assert report.outcomes == {"committed": len(ids)}, report
        return ids

    def code(self, coupon_id: UUID) -> str:
        """Return the code by which a coupon is redeemed."""
        return self.codes.code_of(coupon_id)

    def pay(self, order_id: UUID, amount: int, reference: str = "pay-1") -> str:
        """Pay an order; return the answer's name."""
        return self._change(lambda c: lifecycle.pay(c, order_id, GATEWAY, reference, amount))

    def cancel(self, order_id: UUID) -> str:
        """Cancel an order; return the answer's name."""
        return self._change(lambda c: lifecycle.cancel(c, order_id, GATEWAY))

    def expire(self) -> int:
        """Expire the orders whose payment deadline has come; return how many."""
        with connect(self.dsn, WORKER, Bounds(), name="test-expiry") as connection:
            return lifecycle.expire_due(connection, 500)

    def close(self) -> None:
        """Close all connections."""
        self.intake.close()
        self.session.close()

    def _posted(self, intent: OrderIntent | IssuanceIntent) -> Posted:
        return Posted(
            intent_id=uuid7(),
            gateway_id=GATEWAY,
            idempotency_key=f"key-{next(_keys)}",
            intent=intent,
        )

    def _change(self, event: Callable[[Connection], lifecycle.Transition | None]) -> str:
        with connect(self.dsn, WORKER, Bounds(), name="test-change") as connection:
            done = event(connection)
        assert done is not None, "no such order"
        return done.answer.value


@contextmanager
def open_shop(dsn: str, valkey_url: str, **shop: Any) -> Iterator[Shop]:
    """Open a shop without any campaign yet; close its connections in the end."""
    opened = Shop(dsn, open_gate(valkey_url), **shop)
    try:
        yield opened
    finally:
        opened.close()


def copy_database(dsn: str, name: str) -> str:
    """Copy a database that nobody is connected to; return the copy's DSN."""
    server, _, source = dsn.rpartition("/")
    copy = psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        statement = copy.format(psycopg.sql.Identifier(name), psycopg.sql.Identifier(source))
        connection.execute(statement)
    return f"{server}/{name}"
