"""The audit: proves the promises from the tables alone, in one snapshot.

Each check is one query that counts what it examined and what contradicts the rule, and names one
example. It runs while the system does: REPEATABLE READ sees one moment, and READ ONLY takes no lock
that a writer would wait for. It does not know the code that wrote the rows, and trusts no key and no
constraint: each rule is checked again from the rows.

While it runs, the rows that were deleted since its snapshot cannot be vacuumed. Over millions of
orders that is minutes: then aim it at a replica, or run it when the rush is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from workers.store.pool import Bounds, Connection, connect
from workers.store.redispatch import open_count
from workers.store.sql import queries

_SQL = queries("audit")
_BOUNDS = Bounds(statement_timeout_ms=1_800_000, idle_in_transaction_ms=600_000)
_DRAINED = "drained"


class Check(Struct, frozen=True):
    """What one rule came to. `example` identifies one violation, where there is any."""

    name: str
    rule: str
    examined: int
    violations: int
    example: str | None
    took_ms: float


class AuditReport(Struct, frozen=True):
    """All checks, of one moment."""

    checks: list[Check]
    in_flight: int
    took_ms: float

    @property
    def clean(self) -> bool:
        """Whether every rule holds."""
        return not self.violated

    @property
    def violated(self) -> list[Check]:
        """The checks that found a contradiction."""
        return [check for check in self.checks if check.violations]


def rules() -> dict[str, str]:
    """Return the rules by the names of their checks, in the order they are checked."""
    return {name: _rule(query) for name, query in _SQL.items()}


def run(
    dsn: str,
    role: str | None = None,
    *,
    drained: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> AuditReport:
    """Check every rule in one snapshot; `drained` adds that nothing is open any more.

    `progress` hears the name of each check before it runs. Raises psycopg.Error where the database
    cannot be asked.
    """
    with connect(dsn, role, _BOUNDS, name="audit") as connection:
        # Hashing beats sorting here, and an audit is one session: it may use some memory. Compiling
        # twenty queries that run once each costs more than it saves.
        connection.execute("SET work_mem = '256MB'")
        connection.execute("SET jit = off")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        report = check_all(connection, drained=drained, progress=progress)
        connection.execute("COMMIT")
    return report


def check_all(
    connection: Connection,
    *,
    drained: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> AuditReport:
    """Check every rule within the transaction that `connection` is in."""
    started = time.perf_counter()
    checks = []
    for name in _SQL:
        if name != _DRAINED or drained:
            progress(name)
            checks.append(check(connection, name))
    in_flight = open_count(connection)
    return AuditReport(checks=checks, in_flight=in_flight, took_ms=_ms_since(started))


def check(connection: Connection, name: str) -> Check:
    """Check one rule within the transaction that `connection` is in."""
    started = time.perf_counter()
    row = connection.execute(_SQL[name]).fetchone()
    if row is None:
        raise AssertionError(f"audit query {name} returned nothing")
    examined, violations, example = row
    return Check(
        name=name,
        rule=_rule(_SQL[name]),
        examined=examined,
        violations=violations,
        example=example if violations else None,
        took_ms=_ms_since(started),
    )


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _rule(query: str) -> str:
    """The comment at the head of a query is the rule, in words."""
    comment = [line[3:] for line in query.splitlines() if line.startswith("-- ")]
    return " ".join(comment)
