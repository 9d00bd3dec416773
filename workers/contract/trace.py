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
_KEY: Final = r"[a-z0-9][a-z0-9_*/-]{0,240}(@[a-z][a-z0-9_*/-]{0,13})?"
# Blanks belong to one place of it alone: with two, an empty member could be read in as many ways as it
# has blanks, a list of them in as many as the product, and each would be tried.
_MEMBER: Final = rf"[ \t]*({_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~][ \t]*)?"
_TRACESTATE: Final = re.compile(rf"{_MEMBER}(,{_MEMBER}){{0,31}}".encode())
_TRACESTATE_BYTES_MAX: Final = 512  # what everybody has to pass on; more is nobody's right
TRACEPARENT_BYTES: Final = 55  # of version 00
DIGITS: Final = slice(21, 35)  # where its sampling looks: the last 14 digits of the trace's id


class Parent(NamedTuple):
    """Who called, as a `traceparent` says, and whether the caller records it."""

    context: Context
    sampled: bool


def parent_of(traceparent: bytes | None, tracestate: bytes | None = None) -> Parent | None:
    """Read a `traceparent`, with the `tracestate` beside it; None where the first cannot be read."""
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if found is None or (found[5] is not None and found[1] == b"00"):
        return None
    trace, span = int(found[2], 16), int(found[3], 16)
    if not trace or not span:
        return None
    return Parent(Context(trace, span, _state(tracestate)), bool(int(found[4], 16) & _SAMPLED))


def _state(tracestate: bytes | None) -> str:
    """Return a `tracestate` that may be passed on; "" for one that may not, and for none."""
    if not tracestate or len(tracestate) > _TRACESTATE_BYTES_MAX:
        return ""
    return tracestate.decode("ascii").strip() if _TRACESTATE.fullmatch(tracestate) else ""


def parent_of_texts(traceparent: object, tracestate: object = None) -> Parent | None:
    """Read what may be a `traceparent`, with what may be a `tracestate`; None where it is none."""
    given = _ascii(traceparent)
    return None if given is None else parent_of(given, _ascii(tracestate))


def context_of(traceparent: object, tracestate: object = None) -> Context | None:
    """Return the place that a text names as a `traceparent`; None for anything else."""
    parent = parent_of_texts(traceparent, tracestate)
    return None if parent is None else parent.context


def _ascii(text: object) -> bytes | None:
    return text.encode() if isinstance(text, str) and text.isascii() else None


def trace_of(traceparent: bytes | None) -> int:
    """Take the trace's id from a `traceparent`, or make one. It names a trace, and guards nothing."""
    parent = parent_of(traceparent) if traceparent else None
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
