"""Whose fault an error is: the one table of SQLSTATE, and what Python itself raises."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from workers.store.errors import Fault, fault_of


@pytest.mark.parametrize(
    "error",
    [errors.SerializationFailure(), errors.DeadlockDetected(), errors.LockNotAvailable()],
    ids=repr,
)
def test_who_was_only_in_the_way_is_tried_again(error: psycopg.Error) -> None:
    """The same work may well succeed now."""
    assert fault_of(error) is Fault.CONTENTION


@pytest.mark.parametrize(
    "error",
    [
        errors.UniqueViolation(),
        errors.CheckViolation(),
        errors.NotNullViolation(),
        errors.ForeignKeyViolation(),
        errors.RestrictViolation(),
        errors.NumericValueOutOfRange(),
        errors.DivisionByZero(),
        errors.UntranslatableCharacter(),
        errors.InvalidTextRepresentation(),
    ],
    ids=repr,
)
def test_data_that_the_database_refuses_is_an_intents_own_fault(error: psycopg.Error) -> None:
    """Classes 22 and 23: some intent of the batch carries it."""
    assert fault_of(error) is Fault.OWN


@pytest.mark.parametrize(
    "error",
    [
        errors.AdminShutdown(),
        errors.CrashShutdown(),
        errors.QueryCanceled(),  # statement_timeout among others
        errors.IdleInTransactionSessionTimeout(),
        errors.DiskFull(),
        errors.OutOfMemory(),
        errors.TooManyConnections(),
        errors.ReadOnlySqlTransaction(),
        errors.InsufficientPrivilege(),
        errors.UndefinedTable(),
        errors.UndefinedColumn(),
        errors.InvalidSqlStatementName(),
        errors.InternalError_(),
        psycopg.OperationalError("the connection is closed"),
        psycopg.InterfaceError("the cursor is closed"),
        OSError("broken pipe"),
        TimeoutError(),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_fault_of_the_system_blames_no_intent(error: BaseException) -> None:
    """Disk, shutdown, rights, a schema of another version, a lost connection."""
    assert fault_of(error) is Fault.SYSTEM


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        KeyError("tea"),
        AssertionError(),
        RecursionError(),
        ZeroDivisionError(),
        psycopg.DataError("cannot dump lists of mixed types"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
    ids=repr,
)
def test_what_our_code_raises_over_an_intent_is_its_own_fault(error: BaseException) -> None:
    """Bisection finds which; if it is every intent, nobody is judged."""
    assert fault_of(error) is Fault.OWN
