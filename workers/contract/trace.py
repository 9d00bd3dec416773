"""Trace context (W3C): the id by which one wish is followed through every log and problem."""

from __future__ import annotations

import random
import re
from typing import Final
from uuid import UUID

# Version, trace, parent, flags; what a later version may add stands behind another hyphen.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL
)
TRACEPARENT_BYTES: Final = 55  # of version 00
DIGITS: Final = slice(21, 35)  # where its sampling looks: the last 14 digits of the trace's id


def trace_of(traceparent: bytes | None) -> int:
    """Take the trace's id from a `traceparent`, or make one. It names a trace, and guards nothing."""
    return (traceparent and _read(traceparent)) or random.getrandbits(128) or 1


def trace_of_task(traceparent: object, task_id: object) -> int:
    """Take it from a message of the broker: its `traceparent`, else its task's id; or make one."""
    given = 0
    if isinstance(traceparent, str) and traceparent.isascii():
        given = _read(traceparent.encode())
    try:
        return given or UUID(str(task_id)).int or trace_of(None)
    except ValueError:
        return trace_of(None)


def trace_text(trace: int) -> str:
    """Write an id as logs and problems tell it: 32 hexadecimal digits."""
    return f"{trace:032x}"


def _read(traceparent: bytes) -> int:
    """Return the trace's id; 0 where it cannot be read, as where it is 0."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None or (found[4] is not None and found[1] == b"00"):
        return 0
    return int(found[2], 16) if int(found[3], 16) else 0
