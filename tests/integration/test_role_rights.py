"""Who may do what in PostgreSQL: every right of every role on every table, from the catalogue.

A new table is refused here until its rights are written down. SELECT is `s`, INSERT `i`, UPDATE `u`
(with the columns, where not all), DELETE `d`; only the owner may truncate, reference or trigger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.factories import copy_database, owner
from workers.store.pool import AUDITOR, OPERATOR, PRODUCER, WORKER, Bounds, connect

ROLES = (PRODUCER, WORKER, AUDITOR, OPERATOR)
# In the order of ROLES.
RIGHTS: dict[str, tuple[str, str, str, str]] = {
    "budgets": ("s", "s u(reserved spent)", "s", "s"),
    "calendars": ("s", "s i u", "s", ""),
    "campaigns": (
        "s",
        "s",
        "s",
        "s u(issuance_paused_at issuance_resume_at issuance_pause_reason)",
    ),
    "claims": ("", "s i d", "s", ""),
    "coupons": ("s", "s i u(value expired_at)", "s", "s"),
    "gateway_keys": ("s", "", "", ""),
    "gateways": ("s", "s", "s", ""),
    "idempotency_keys": ("s i", "s", "s", ""),
    "intents": ("s i", "s", "s", "s"),
    "items": ("s", "s", "s", "s"),
    "ledger": ("", "s i", "s", ""),
    "level_orders": ("s", "s", "s", "s i u d"),
    "merchants": ("s", "s", "s", "s u(paused paused_until pause_reason)"),
    "migrations": ("", "s", "s", ""),
    "noted_level": ("", "s u(level since_ms reason)", "s", ""),
    "open_intents": ("s i", "s u(dispatch_after attempts retry_after last_error) d", "s", "s"),
    "operator_actions": ("", "s", "s", "s i"),
    "order_lines": ("s", "s i", "s", ""),
    "orders": ("s", "s i u(status payment_deadline)", "s", ""),
    "outbox": (
        "",
        "s i u(due_at lease_id attempts status_code last_error settled_at dead) d",
        "s",
        "",
    ),
    "outcomes": ("s", "s i", "s", ""),
    "payments": ("s", "s i u(status)", "s", ""),
    "quarantine": ("", "s i u(retried_as)", "s", "s"),
    "redemptions": ("s", "s i d", "s", "s"),
    "retention": ("", "s", "s", ""),
    "stock": ("s", "s u(available reserved sold)", "s", "s"),
    "stock_changes": ("", "s", "s", ""),
    "tallies": ("", "s i u(intents coupons)", "s", "s"),
    "user_counters": ("", "s i u(used max)", "s", "s"),
    "webhook_endpoints": (
        "",
        "s u(disabled_at disabled_reason failures failing_since not_before)",
        "s",
        "",
    ),
}

_TABLES = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'tidegate'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT c.relispartition
ORDER BY 1
"""
_PARTITIONS = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'tidegate'::regnamespace AND c.relispartition AND c.relkind = 'r'
"""
_COLUMNS = """
SELECT string_agg(attname, ' ' ORDER BY attnum)
         FILTER (WHERE has_column_privilege(%(role)s, attrelid, attnum, %(verb)s)),
       bool_and(has_column_privilege(%(role)s, attrelid, attnum, %(verb)s))
FROM pg_attribute
WHERE attrelid = format('tidegate.%%I', %(table)s::text)::regclass AND attnum > 0 AND NOT attisdropped
"""
_FUNCTIONS = """
SELECT p.proname, p.prosecdef, array_to_string(p.proconfig, ' '),
       array(SELECT name FROM unnest(%s::text[]) AS name
             WHERE has_function_privilege(name, p.oid, 'EXECUTE') ORDER BY name)
FROM pg_proc p WHERE p.pronamespace = 'tidegate'::regnamespace
"""


@pytest.fixture(scope="module")
def dsn(servers: Any, migrated_template: str) -> Iterator[str]:
    """One migrated database for all tests of this module: they only look."""
    server = servers.dsn.rpartition("/")[0]
    yield copy_database(f"{server}/{migrated_template}", "role_rights")
    with psycopg.connect(servers.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE role_rights WITH (FORCE)")


def rights_of(connection: psycopg.Connection, role: str, table: str) -> str:
    """A role's rights on a table, as written above."""
    found = []
    for letter, verb in zip("siu", ("SELECT", "INSERT", "UPDATE"), strict=True):
        row = connection.execute(_COLUMNS, {"role": role, "verb": verb, "table": table}).fetchone()
        assert row is not None
        columns, whole = row
        if columns:
            found.append(letter if whole else f"{letter}({columns})")
    row = connection.execute(
        "SELECT has_table_privilege(%s, %s, 'DELETE')", (role, f"tidegate.{table}")
    ).fetchone()
    return " ".join([*found, "d"] if row == (True,) else found)


def test_every_role_has_these_rights_and_no_other(dsn: str) -> None:
    with owner(dsn) as connection:
        tables = [table for (table,) in connection.execute(_TABLES).fetchall()]
        found = {
            table: tuple(rights_of(connection, role, table) for role in ROLES) for table in tables
        }
    assert found == RIGHTS


def test_only_the_owner_empties_references_or_triggers(dsn: str) -> None:
    with owner(dsn) as connection:
        names = [row[0] for row in connection.execute(_TABLES).fetchall()]
        names += [row[0] for row in connection.execute(_PARTITIONS).fetchall()]
        for role in ROLES:
            query = "SELECT has_table_privilege(%s, %s, 'TRUNCATE, REFERENCES, TRIGGER')"
            held = [
                name
                for name in names
                if connection.execute(query, (role, f"tidegate.{name}")).fetchone() == (True,)
            ]
            assert held == [], role


def test_a_partition_is_written_by_its_parents_rights_only(dsn: str) -> None:
    with owner(dsn) as connection:
        for (name,) in connection.execute(_PARTITIONS).fetchall():
            for role in ROLES:
                query = "SELECT has_table_privilege(%s, %s, 'INSERT, UPDATE, DELETE')"
                row = connection.execute(query, (role, f"tidegate.{name}")).fetchone()
                assert row == (False,), (role, name)


def test_no_role_can_do_more_than_its_tables_say(dsn: str) -> None:
    """No login, no attribute, no membership of another, nothing of its own, no new object."""
    with owner(dsn) as connection:
        for role in ROLES:
            row = connection.execute(
                "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
                " FROM pg_roles WHERE rolname = %s",
                (role,),
            ).fetchone()
            assert row == (False,) * 6
            owned = (
                "SELECT count(*) FROM pg_shdepend WHERE refobjid = %s::regrole AND deptype = 'o'"
            )
            assert connection.execute(owned, (role,)).fetchone() == (0,)
            for other in {*ROLES, "pg_read_server_files", "pg_execute_server_program"} - {role}:
                query = "SELECT pg_has_role(%s, %s, 'MEMBER')"
                assert connection.execute(query, (role, other)).fetchone() == (False,)
            for schema in ("tidegate", "audit", "public"):
                query = "SELECT has_schema_privilege(%s, %s, 'CREATE')"
                assert connection.execute(query, (role, schema)).fetchone() == (False,), schema


def test_a_function_with_the_owners_rights_is_the_workers_alone(dsn: str) -> None:
    """And looks for what it names in our schema only."""
    with owner(dsn) as connection:
        found = connection.execute(_FUNCTIONS, (list(ROLES),)).fetchall()
    privileged = {name: (config, who) for name, definer, config, who in found if definer}
    assert privileged == {"ensure_partitions": ("search_path=tidegate", [WORKER])}


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (PRODUCER, "INSERT INTO outcomes VALUES (gen_random_uuid(), NULL, now())"),
        (PRODUCER, "UPDATE stock SET available = available - 1, sold = sold + 1"),
        (PRODUCER, "UPDATE intents SET user_id = 'u'"),
        (PRODUCER, "DELETE FROM open_intents"),
        (PRODUCER, "INSERT INTO gateway_keys VALUES ('k', 'chat', sha256('k'))"),
        (PRODUCER, "SELECT ensure_partitions(current_date, 1)"),
        (WORKER, "SELECT * FROM gateway_keys"),
        (WORKER, "UPDATE ledger SET delta = 1"),
        (WORKER, "DELETE FROM ledger"),
        (WORKER, "UPDATE outcomes SET reason = 'sold_out'"),
        (WORKER, "UPDATE intents SET body = '{}'"),
        (WORKER, "UPDATE stock SET initial = 1"),
        (WORKER, "UPDATE budgets SET budget = 1"),
        (WORKER, "INSERT INTO intents SELECT * FROM intents"),
        (WORKER, "UPDATE campaigns SET orders_per_user_max = 1000"),
        (WORKER, "ALTER TABLE ledger DISABLE TRIGGER ALL"),
        (WORKER, "SET session_replication_role = replica"),
        (AUDITOR, "UPDATE stock SET sold = 0"),
        (AUDITOR, "SELECT * FROM gateway_keys"),
        (AUDITOR, "CREATE TABLE tidegate.mine ()"),
        (OPERATOR, "SELECT * FROM gateway_keys"),
        (OPERATOR, "UPDATE campaigns SET coupon_amount = 1"),
        (OPERATOR, "UPDATE stock SET available = 1"),
        (OPERATOR, "DELETE FROM operator_actions"),
        (OPERATOR, "UPDATE operator_actions SET actor = 'nobody'"),
        *((role, "COPY (SELECT 1) TO PROGRAM 'true'") for role in ROLES),
        *((role, "COPY (SELECT 1) TO '/tmp/x'") for role in ROLES),
        *((role, "SELECT pg_read_file('postgresql.conf')") for role in ROLES),
        *((role, "ALTER SYSTEM SET fsync = off") for role in ROLES),
        *((role, "DROP SCHEMA tidegate CASCADE") for role in ROLES),
    ],
)
def test_the_server_says_no(role: str, statement: str, dsn: str) -> None:
    """The rights above, as statements."""
    with connect(dsn, role, Bounds(), name="test") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
