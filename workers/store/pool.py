"""Connections: one way to open them, with a role and a bound on everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg.adapt import Buffer, Loader

from config.settings import Postgres
from workers.contract.ids import uuid_of
from workers.store import arrays
from workers.store.sql import queries

Connection = psycopg.Connection[tuple[Any, ...]]

PRODUCER = "tidegate_producer"
WORKER = "tidegate_worker"
AUDITOR = "tidegate_auditor"
OPERATOR = "tidegate_operator"  # the console: watches, and pulls levers
# Whose remark it is that a commit does not wait any longer.
_WAITS_FOR_STANDBY: Final = "SyncRepWaitForLSN"
_SQL: Final = queries("pool")

OWNER: str | None = None  # the login itself: migrations and operator commands


class _Faithful(Connection):
    """Takes no commit for done that was to wait for a standby, and was kept from waiting.

    The server commits on its own then, answers as ever, and only warns: should it die now, the standby
    knows nothing of it. Raised instead is what a lost reply raises, and the connection is closed: who
    asks again, on another one, waits for the standby (see `opener`).
    """

    _warned = False

    def wait(self, *given: Any, **named: Any) -> Any:
        """See psycopg. Raises psycopg.OperationalError as well."""
        said = super().wait(*given, **named)
        if self._warned:
            self.close()
            raise psycopg.OperationalError("a commit was kept from waiting for its standby")
        return said

    def heed(self, notice: psycopg.errors.Diagnostic) -> None:
        """Hear what the server remarks. What it is about is told by where it comes from."""
        self._warned |= notice.source_function == _WAITS_FOR_STANDBY


class _JsonBytes(Loader):
    """Hand `json` values over as the bytes they are; msgspec decodes them into their shape."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class _JsonBytesBinary(_JsonBytes):
    format = psycopg.pq.Format.BINARY


class _UuidBinary(Loader):
    """Make ids as the rest of the code does: three times as fast as psycopg's own loader."""

    format = psycopg.pq.Format.BINARY

    def load(self, data: Buffer) -> UUID:
        return uuid_of(bytes(data))


class Bounds(Struct, frozen=True):
    """How long a connection may wait for what.

    `connect_timeout_s` bounds a server that does not answer. `statement_timeout_ms` bounds one
    statement: a batch takes tens of milliseconds, so seconds mean trouble worth giving up for.
    `lock_timeout_ms` bounds waiting behind another batch on a hot row: the batch is retried, its
    intents are safe in the journal. `idle_in_transaction_ms` frees the locks of a process that was
    paused in the middle of a batch; it finds its connection gone when it wakes.
    """

    connect_timeout_s: int = 3
    statement_timeout_ms: int = 5_000
    lock_timeout_ms: int = 2_000
    idle_in_transaction_ms: int = 10_000


def connect(
    dsn: str, role: str | None, bounds: Bounds, *, name: str, autocommit: bool = True
) -> Connection:
    """Open a connection that acts as `role`; raises psycopg.OperationalError within the bound.

    `name` is shown in pg_stat_activity. Keepalives and `tcp_user_timeout` notice a peer that went
    silent; without them a cut cable looks like a slow query for hours.
    """
    options = [
        "search_path=tidegate",
        "TimeZone=UTC",
        f"statement_timeout={bounds.statement_timeout_ms}",
        f"lock_timeout={bounds.lock_timeout_ms}",
        f"idle_in_transaction_session_timeout={bounds.idle_in_transaction_ms}",
    ]
    if role:
        options.append(f"role={role}")
    connection = _Faithful.connect(
        dsn,
        autocommit=autocommit,
        connect_timeout=bounds.connect_timeout_s,
        options=" ".join(f"-c {option}" for option in options),
        application_name=f"tidegate-{name}",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=max(bounds.statement_timeout_ms * 2, 10_000),
    )
    connection.add_notice_handler(connection.heed)
    connection.adapters.register_loader("json", _JsonBytes)
    connection.adapters.register_loader("json", _JsonBytesBinary)
    connection.adapters.register_loader("uuid", _UuidBinary)
    arrays.register(connection)
    connection.prepare_threshold = 2
    return connection


def opener(postgres: Postgres, role: str | None, name: str) -> Callable[[], Connection]:
    """Return a function that opens a connection of this role, within the settings' bounds.

    Where commits wait for a standby, so does the opening, for those who tell others what they read:
    a server that restarted shows what it had committed, whether or not the standby has it.
    """
    bounds = Bounds(
        connect_timeout_s=postgres.connect_timeout_s,
        statement_timeout_ms=postgres.statement_timeout_ms,
        lock_timeout_ms=postgres.lock_timeout_ms,
        idle_in_transaction_ms=postgres.idle_in_transaction_timeout_ms,
    )

    def open_connection() -> Connection:
        connection = connect(postgres.dsn, role, bounds, name=name)
        if role in (PRODUCER, WORKER):
            try:
                connection.execute(_SQL.standby_awaited)
            except BaseException:
                connection.close()
                raise
        return connection

    return open_connection


class Session:
    """One connection for one thread: opened when needed, and again after it broke."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The live connection; raises psycopg.OperationalError where none is to be had."""
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        return self._connection
