"""Trace context (W3C): the id by which one wish is followed through every log and problem."""

from __future__ import annotations

import random
import re
from typing import Final, NamedTuple
from uuid import UUID

from config.tracing import Context

# Version, trace, parent, flags; what a later version may add stands behind another hyphen.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_SAMPLED: Final = 1  # of the flags
TRACEPARENT_BYTES: Final = 55  # of version 00
DIGITS: Final = slice(21, 35)  # where its sampling looks: the last 14 digits of the trace's id


class Parent(NamedTuple):
    """Who called, as a `traceparent` says, and whether the caller records it."""

    context: Context
    sampled: bool


def parent_of(traceparent: bytes | None) -> Parent | None:
    """Read a `traceparent`; None where it cannot be read."""
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if found is None or (found[5] is not None and found[1] == b"00"):
        return None
    context = Context(int(found[2], 16), int(found[3], 16))
    return Parent(context, bool(int(found[4], 16) & _SAMPLED)) if all(context) else None


def context_of(traceparent: object) -> Context | None:
    """Return the place that a text names as a `traceparent`; None for anything else."""
    if not isinstance(traceparent, str) or not traceparent.isascii():
        return None
    parent = parent_of(traceparent.encode())
    return None if parent is None else parent.context


def trace_of(traceparent: bytes | None) -> int:
    """Take the trace's id from a `traceparent`, or make one. It names a trace, and guards nothing."""
    parent = parent_of(traceparent)
    return parent.context.trace if parent is not None else random.getrandbits(128) or 1


def trace_of_task(traceparent: object, task_id: object) -> int:
    """Take it from a message of the broker: its `traceparent`, else its task's id; or make one."""
    given = context_of(traceparent)
    try:
        return given.trace if given is not None else UUID(str(task_id)).int or trace_of(None)
    except ValueError:
        return trace_of(None)


def trace_text(trace: int) -> str:
    """Write an id as logs and problems tell it: 32 hexadecimal digits."""
    return f"{trace:032x}"
