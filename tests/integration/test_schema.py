"""The schema: what no statement can do, what an auditor sees, and what an order weighs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.factories import add_campaign, give_coupons, one, open_shop, owner
from workers.contract.ids import uuid7
from workers.domain.intent import Line
from workers.store import audit, migrate
from workers.store.pool import AUDITOR, WORKER, Bounds, Connection, connect

ID = f"'{uuid7()}'"


def test_the_auditor_sees_the_contracts_views_and_changes_nothing(dsn, valkey_url):
    """The views and their columns are a promise to whoever audits from outside."""
    add_campaign(dsn)
    with open_shop(dsn, valkey_url) as shop:
        shop.sell(shop.order())
    with connect(dsn, AUDITOR, Bounds(), name="test") as connection:
        for view, columns in VIEWS.items():
            cursor = connection.execute(f"SELECT * FROM audit.{view}".encode())
            assert [column.name for column in cursor.description or ()] == columns.split()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE tidegate.mine ()")


VIEWS = {
    "intents": "intent_id kind gateway_id idempotency_key user_id campaign_id accepted_at status "
    "reason decided_at",
    "orders": "order_id intent_id user_id campaign_id status total discount payable currency "
    "coupon_id batch_id created_at",
    "order_lines": "order_id campaign_id sku quantity unit_price",
    "payments": "order_id reference amount status recorded_at",
    "stock": "campaign_id sku initial available reserved sold",
    "coupons": "coupon_id campaign_id user_id status value valid_until redeemed_by_order",
    "budgets": "campaign_id budget spent reserved",
    "ledger": "entry_id batch_id account delta recorded_at",
    "accounts": "account balance",
}

# Constraints: what not even the owner can write ---------------------------------------------------

FORBIDDEN = {
    "selling more units than there are": (
        "UPDATE stock SET available = available - 1001, sold = sold + 1001",
        psycopg.errors.CheckViolation,
    ),
    "taking a unit that arrives nowhere": (
        "UPDATE stock SET available = available - 1",
        psycopg.errors.CheckViolation,
    ),
    "promising more money than there is": (
        "UPDATE budgets SET reserved = budget + 1",
        psycopg.errors.CheckViolation,
    ),
    "one order more than a user may have": (
        "UPDATE user_counters SET used = max + 1",
        psycopg.errors.CheckViolation,
    ),
    "redeeming a coupon in a second order": (
        f"INSERT INTO redemptions SELECT coupon_id, {ID}, now() FROM redemptions",
        psycopg.errors.UniqueViolation,
    ),
    "a second outcome": (
        "INSERT INTO outcomes SELECT intent_id, 'sold_out', now() FROM outcomes",
        psycopg.errors.UniqueViolation,
    ),
    "a second order of one intent": (
        "INSERT INTO orders SELECT * FROM orders",
        psycopg.errors.UniqueViolation,
    ),
    "a second payment that pays an order": (
        "INSERT INTO payments SELECT order_id, 'another', amount, 'accepted' FROM payments",
        psycopg.errors.UniqueViolation,
    ),
    "a second use of a key": (
        f"INSERT INTO idempotency_keys SELECT digest, {ID}, fingerprint FROM idempotency_keys",
        psycopg.errors.UniqueViolation,
    ),
    "a movement that comes from nowhere": (
        (
            "INSERT INTO ledger (batch_id, account, delta) "
            "VALUES (gen_random_uuid(), 'stock:spring:tea:available', 1)"
        ),
        psycopg.errors.CheckViolation,
    ),
    "a movement between two units": (
        (
            f"INSERT INTO ledger (batch_id, account, delta) "
            f"VALUES ({ID}, 'stock:spring:tea:sold', 1), ({ID}, 'stock:spring:bun:available', -1)"
        ),
        psycopg.errors.CheckViolation,
    ),
    "a movement between two batches": (
        (
            "INSERT INTO ledger (batch_id, account, delta) "
            "VALUES (gen_random_uuid(), 'stock:spring:tea:sold', 1), "
            "(gen_random_uuid(), 'stock:spring:tea:available', -1)"
        ),
        psycopg.errors.CheckViolation,
    ),
    "unconfirming an order": (
        (
            "UPDATE orders SET status = 'awaiting_payment', payment_deadline = now() "
            "WHERE status = 'confirmed'"
        ),
        psycopg.errors.CheckViolation,
    ),
    "expiring a confirmed order": (
        "UPDATE orders SET status = 'expired' WHERE status = 'confirmed'",
        psycopg.errors.CheckViolation,
    ),
    "reviving a cancelled order": (
        "UPDATE orders SET status = 'confirmed' WHERE status = 'cancelled'",
        psycopg.errors.CheckViolation,
    ),
    "changing what was sold": (
        "UPDATE orders SET total = total + 1, payable = payable + 1",
        psycopg.errors.CheckViolation,
    ),
    "giving an order to another user": (
        "UPDATE orders SET user_id = 'u-9'",
        psycopg.errors.CheckViolation,
    ),
    "changing the ledger": ("UPDATE ledger SET delta = delta", psycopg.errors.RestrictViolation),
    "shortening the ledger": ("DELETE FROM ledger", psycopg.errors.RestrictViolation),
    "emptying the ledger": ("TRUNCATE ledger", psycopg.errors.RestrictViolation),
    "changing the journal": (
        "UPDATE intents SET user_id = 'u-9'",
        psycopg.errors.RestrictViolation,
    ),
    "shortening the journal": ("DELETE FROM intents", psycopg.errors.RestrictViolation),
    "changing an outcome": (
        "UPDATE outcomes SET reason = 'sold_out'",
        psycopg.errors.RestrictViolation,
    ),
    "forgetting an outcome": ("DELETE FROM outcomes", psycopg.errors.RestrictViolation),
    "forgetting an order": ("DELETE FROM orders", psycopg.errors.RestrictViolation),
    "forgetting what an operator did": (
        "DELETE FROM operator_actions",
        psycopg.errors.RestrictViolation,
    ),
}


@pytest.fixture(scope="module")
def sold(servers, migrated_template) -> Iterator[str]:
    """A database with a confirmed and a cancelled order, and a coupon redeemed."""
    from tests.factories import copy_database

    server = servers.dsn.rpartition("/")[0]
    dsn = copy_database(f"{server}/{migrated_template}", "schema_sold")
    add_campaign(dsn)
    with open_shop(dsn, servers.valkey_url) as shop:
        [coupon] = shop.sell(shop.issuance("u-1"))
        [paid] = shop.sell(shop.order("u-1", coupon_code=shop.code(coupon)))
        assert shop.pay(paid, 1_100) == "paid"
        [left] = shop.sell(shop.order("u-2"))
        assert shop.cancel(left) == "cancelled"
    yield dsn
    with psycopg.connect(servers.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE schema_sold WITH (FORCE)")


@pytest.mark.parametrize("deed", FORBIDDEN)
def test_the_tables_themselves_refuse(deed, sold):
    """Promises are constraints: no code, and no hand, gets round them."""
    statement, error = FORBIDDEN[deed]
    assert _refusal(sold, None, statement) is error


def test_a_raised_maximum_holds_for_users_who_had_reached_the_old_one(dsn, valkey_url):
    """An operator may allow more: the next order is an order, not a failure."""
    add_campaign(dsn, orders_per_user_max=1)
    with open_shop(dsn, valkey_url) as shop:
        shop.sell(shop.order())
        with owner(dsn) as connection:
            connection.execute("UPDATE campaigns SET orders_per_user_max = 2")
        shop.sell(shop.order())
        shop.accept(shop.order())
        assert shop.work().outcomes == {"user_limit_reached": 1}
    assert audit.run(dsn, AUDITOR).violated == []


def test_a_lowered_maximum_takes_nothing_back(dsn, valkey_url):
    """Who has more keeps it, gets no more, and can still cancel."""
    add_campaign(dsn, orders_per_user_max=3)
    with open_shop(dsn, valkey_url) as shop:
        first, second = shop.sell(shop.order(), shop.order())
        with owner(dsn) as connection:
            connection.execute("UPDATE campaigns SET orders_per_user_max = 1")
        shop.accept(shop.order())
        assert shop.work().outcomes == {"user_limit_reached": 1}
        assert [shop.cancel(first), shop.cancel(second)] == ["cancelled", "cancelled"]
        shop.sell(shop.order())
    assert audit.run(dsn, AUDITOR).violated == []


# Growth and migrations ----------------------------------------------------------------------------


def test_the_days_ahead_have_partitions_and_making_them_again_makes_none(dsn):
    """Eight days by migration; a day more is four tables more, once."""
    days = "SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date, %s)"
    with connect(dsn, WORKER, Bounds(), name="test") as connection:
        assert connection.execute(days, (8,)).fetchone() == (0,)
        assert connection.execute(days, (9,)).fetchone() == (4,)
        assert connection.execute(days, (9,)).fetchone() == (0,)


def test_an_order_without_a_partition_of_its_day_is_still_an_order(dsn, valkey_url):
    """The default partition takes what nobody made room for."""
    add_campaign(dsn)
    with owner(dsn) as connection:
        for table in ("intents", "outcomes", "orders", "order_lines"):
            name = one(dsn, "SELECT to_char(now() AT TIME ZONE 'UTC', %s)", f'"{table}_"YYYYMMDD')
            connection.execute(f"DROP TABLE {name}".encode())
    with open_shop(dsn, valkey_url) as shop:
        [order] = shop.sell(shop.order())
        assert shop.cancel(order) == "cancelled"
    assert one(dsn, "SELECT count(*) FROM orders_default") == 1
    with connect(dsn, WORKER, Bounds(), name="test") as connection:
        days = "SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date, 1)"
        assert connection.execute(days).fetchone() == (0,)  # its rows are in the default partition
    assert audit.run(dsn, AUDITOR).violated == []


def test_migrating_twice_changes_nothing(empty_dsn):
    """The second time there is nothing to apply."""
    assert migrate.migrate(empty_dsn) == [m.name for m in migrate.shipped()]
    assert migrate.migrate(empty_dsn) == []


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(empty_dsn):
    """History is not rewritten, and nothing is applied on top of a rewritten one."""
    migrate.migrate(empty_dsn)
    with owner(empty_dsn) as connection:
        connection.execute("UPDATE migrations SET checksum = 'another' WHERE version = 1")
    with pytest.raises(migrate.MigrationError, match="0001_core"):
        migrate.migrate(empty_dsn)


def test_two_migrators_at_once_apply_each_migration_once(empty_dsn):
    """One waits for the other, and finds nothing left to do."""
    applied: list[list[str]] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            applied.append(migrate.migrate(empty_dsn))
        except Exception as error:
            errors.append(error)

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert errors == []
    assert sorted(applied, key=len) == [[], [m.name for m in migrate.shipped()]]


# Weight -------------------------------------------------------------------------------------------

WEIGHED = 20_000  # orders: enough that pages half filled do not count
BYTES_PER_ORDER_MAX = 1_600


@pytest.mark.slow
def test_an_order_weighs_what_is_said_of_it(dsn, valkey_url):
    """Two lines and a coupon, with all tables and indexes; printed with `-s`."""
    weights = weigh(dsn, valkey_url, WEIGHED)
    print("\nbytes per two-line order with a coupon, by table:")
    for table, (heap, indexes) in weights.items():
        print(f"  {table:<18} {heap:>7.1f} rows {indexes:>7.1f} indexes")
    total = sum(heap + indexes for heap, indexes in weights.values())
    print(f"  {'all':<18} {total:>7.1f}")
    assert total < BYTES_PER_ORDER_MAX
    report = audit.run(dsn, AUDITOR, drained=True)
    print(f"audit: {len(report.checks)} checks in {report.took_ms:.0f} ms")
    assert report.violated == []


def weigh(dsn: str, valkey_url: str, count: int) -> dict[str, tuple[float, float]]:
    """Sell `count` orders in batches of 500; return bytes per order: rows, indexes, by table.

    The coupon is weighed with the order that redeems it; it was issued in bulk, without an intent.
    """
    add_campaign(dsn, stock={"tea": count, "bun": count}, budget=count * 3_600, coupon=3_600)
    with owner(dsn) as connection:
        empty = _sizes(connection)
    users = [f"u-{number:08}" for number in range(count)]
    with open_shop(dsn, valkey_url) as shop:
        for start in range(0, count, 500):
            some = users[start : start + 500]
            coupons = give_coupons(dsn, some, value=3_600)
            shop.sell(
                *[
                    shop.order(user, lines=LINES, coupon_code=shop.code(coupon), ttl_ms=600_000)
                    for user, coupon in zip(some, coupons, strict=True)
                ]
            )
    with owner(dsn) as connection:
        connection.execute("VACUUM FULL open_intents")  # a queue weighs what is in it: nothing
        full = _sizes(connection)
    grown = {
        table: ((heap - empty[table][0]) / count, (indexes - empty[table][1]) / count)
        for table, (heap, indexes) in full.items()
    }
    return {table: weight for table, weight in grown.items() if sum(weight) >= 0.5}


LINES = (Line("tea", 1), Line("bun", 1))


def _sizes(connection: Connection) -> dict[str, tuple[int, int]]:
    """Bytes of rows and of indexes, partitions counted with their tables."""
    rows = connection.execute(
        """SELECT coalesce(p.relname, c.relname), sum(pg_table_size(c.oid))::bigint,
                  sum(pg_indexes_size(c.oid))::bigint
           FROM pg_class c
           LEFT JOIN pg_inherits h ON h.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = h.inhparent
           WHERE c.relnamespace = 'tidegate'::regnamespace AND c.relkind = 'r' GROUP BY 1"""
    ).fetchall()
    return {table: (heap, indexes) for table, heap, indexes in rows}


def _refusal(dsn: str, role: str | None, statement: str) -> type[psycopg.Error] | None:
    """How the server refuses a statement; None: it does not."""
    with connect(dsn, role, Bounds(), name="test") as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return type(error)
    return None
