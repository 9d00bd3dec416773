"""Migrations: numbered SQL files, forward only, each in one transaction, under one advisory lock."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import psycopg
from msgspec import Struct

from workers.store.pool import OWNER, Bounds, Connection, connect
from workers.store.sql import queries

_SQL = queries("migrate")
# A migration may wait for traffic and may rewrite a table; it is no statement of a busy minute.
_BOUNDS = Bounds(
    statement_timeout_ms=600_000, lock_timeout_ms=30_000, idle_in_transaction_ms=600_000
)


class MigrationError(Exception):
    """A migration that was applied differs from the file of its number. Restore the file."""


class Migration(Struct, frozen=True):
    """One file of `migrations/`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Hash of the text: what was applied must be what is shipped."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def shipped() -> list[Migration]:
    """Return the migrations of this version, in their order."""
    folder = files("workers.store") / "migrations"
    found = [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text())
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.version)


def migrate(dsn: str) -> list[str]:
    """Apply what is missing; return the names of what was applied.

    Raises MigrationError where history was changed, psycopg.OperationalError where no server is.
    """
    with connect(dsn, OWNER, _BOUNDS, name="migrate") as connection:
        connection.execute(_SQL.migrations_lock)
        try:
            missing = pending(connection)
            for migration in missing:
                _apply(connection, migration)
            return [migration.name for migration in missing]
        finally:
            connection.execute(_SQL.migrations_unlock)


def pending(connection: Connection) -> list[Migration]:
    """Return the migrations this database lacks; those it has are the first of what is shipped."""
    applied = _applied(connection)
    missing: list[Migration] = []
    for migration in shipped():
        checksum = applied.get(migration.version)
        if checksum is None:
            missing.append(migration)
        elif missing:
            raise MigrationError(
                f"{migration.name} was applied, {missing[0].name} before it was not"
            )
        elif checksum != migration.checksum:
            raise MigrationError(f"{migration.name} is not the file that was applied")
    return missing


def _applied(connection: Connection) -> dict[int, str]:
    try:
        return dict(connection.execute(_SQL.migrations_applied).fetchall())
    except psycopg.errors.UndefinedTable:
        return {}


def _apply(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        connection.execute(_SQL.migrations_table)
        connection.execute(migration.text.encode())  # bytes: no placeholders in it
        connection.execute(
            _SQL.migration_record, (migration.version, migration.name, migration.checksum)
        )
