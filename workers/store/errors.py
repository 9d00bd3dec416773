"""SQLSTATE, read in one place: whose fault an error is, and whether to try again."""

from __future__ import annotations

from enum import Enum, auto

import psycopg


class Fault(Enum):
    """What an error says about the work in hand."""

    CONTENTION = auto()  # another batch was in the way: the same work may well succeed now
    SYSTEM = auto()  # disk, locks, shutdown, a lost connection: nobody's intent is to blame
    OWN = auto()  # the data of an intent of this batch: bisect


_CONTENTION = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available: lock_timeout
}


def fault_of(error: BaseException) -> Fault:
    """Say whose fault `error` is. What no table knows from Python is the batch's own."""
    if not isinstance(error, psycopg.Error):
        return Fault.SYSTEM if isinstance(error, OSError | MemoryError) else Fault.OWN
    state = error.sqlstate
    if state is None:
        # No SQLSTATE: the client's own error. Of these only bad parameters are the batch's.
        return Fault.OWN if isinstance(error, psycopg.DataError) else Fault.SYSTEM
    if state in _CONTENTION:
        return Fault.CONTENTION
    return Fault.OWN if state[:2] in ("22", "23") else Fault.SYSTEM
