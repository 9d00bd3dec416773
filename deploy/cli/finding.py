"""What `tidegate doctor` found in one place."""

from __future__ import annotations

from enum import Enum

import msgspec


class Status(Enum):
    """How it is."""

    FINE = "fine"
    BAD = "bad"
    UNREACHABLE = "unreachable"


class Finding(msgspec.Struct, frozen=True):
    """One check."""

    check: str
    status: Status
    found: str
    mend: str = ""


def judge(check: str, fine: bool, found: object, mend: str) -> Finding:
    """Make a finding; the mend is told only where something is to be mended."""
    status = Status.FINE if fine else Status.BAD
    return Finding(check, status, str(found), "" if fine else mend)


def unreachable(check: str, why: object, mend: str) -> Finding:
    """Make the finding that nobody answered."""
    return Finding(check, Status.UNREACHABLE, " ".join(str(why).split()), mend)
