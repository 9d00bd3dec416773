"""The tables at the end, and samples of them meanwhile, read through the audit's views."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from msgspec import Struct

from workers.store import redispatch
from workers.store.pool import AUDITOR, Bounds, Connection, connect
from workers.store.sql import queries

_SQL: Final = queries("chaos")
BOUNDS: Final = Bounds(statement_timeout_ms=60_000, lock_timeout_ms=2_000)


class IntentRow(Struct, frozen=True, array_like=True):
    """See `audit.intents`; `reason` is empty where there is none."""

    intent_id: str
    kind: str
    key: str
    user: str
    status: str
    reason: str


class OrderRow(Struct, frozen=True, array_like=True):
    """See `audit.orders`."""

    order_id: str
    intent_id: str
    user: str
    status: str
    total: int
    discount: int
    payable: int
    coupon_id: str | None


class LineRow(Struct, frozen=True, array_like=True):
    """See `audit.order_lines`."""

    order_id: str
    sku: str
    quantity: int


class CouponRow(Struct, frozen=True, array_like=True):
    """See `audit.coupons`."""

    coupon_id: str
    user: str
    status: str
    value: int
    order_id: str | None


class PaymentRow(Struct, frozen=True, array_like=True):
    """See `audit.payments`."""

    order_id: str
    reference: str
    amount: int
    status: str


class AccountRow(Struct, frozen=True, array_like=True):
    """An account, and the sum of its movements at the same moment."""

    account: str
    balance: int
    moved: int


class Tables(Struct, frozen=True, kw_only=True):
    """Everything of one campaign."""

    intents: list[IntentRow] = []
    orders: list[OrderRow] = []
    lines: list[LineRow] = []
    coupons: list[CouponRow] = []
    payments: list[PaymentRow] = []
    accounts: list[AccountRow] = []
    unbalanced: list[tuple[str, str, int]] = []  # batch, unit, sum


def open_reader(dsn: str) -> Connection:
    """Open a connection that only reads. Raises psycopg.OperationalError."""
    return connect(dsn, AUDITOR, BOUNDS, name="chaos")


def read(dsn: str, campaign_id: str) -> Tables:
    """Read everything of one campaign. Raises psycopg.Error."""
    with contextlib.closing(open_reader(dsn)) as connection:

        def rows(query: str, kind: type[Any]) -> list[Any]:
            found = connection.execute(_SQL[query], {"campaign_id": campaign_id})
            return [kind(*row) for row in found]

        return Tables(
            intents=rows("intents_read", IntentRow),
            orders=rows("orders_read", OrderRow),
            lines=rows("lines_read", LineRow),
            coupons=rows("coupons_read", CouponRow),
            payments=rows("payments_read", PaymentRow),
            accounts=rows("accounts_read", AccountRow),
            unbalanced=[
                (row[0], row[1], row[2])
                for row in connection.execute(_SQL.unbalanced_read, {"campaign_id": campaign_id})
            ],
        )


def read_accounts(connection: Connection, campaign_id: str) -> list[AccountRow]:
    """Read the accounts of one campaign at one moment. Raises psycopg.Error."""
    found = connection.execute(_SQL.accounts_read, {"campaign_id": campaign_id})
    return [AccountRow(*row) for row in found]


def open_count(connection: Connection) -> int:
    """Count the intents without an outcome."""
    return redispatch.open_count(connection)


def count_connections(connection: Connection) -> int:
    """Count the server's clients."""
    row = connection.execute(_SQL.connections_count).fetchone()
    assert row is not None
    return int(row[0])
