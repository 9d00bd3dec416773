"""Spans for OpenTelemetry: what a call, a batch and an outcome took, told of a few whole traces.

An intent's trace is followed or not: the process that first meets it decides, and hands its context on
with the intent. So a trace is told whole, and nobody decides twice. Spans are values, told when what
they tell of is over; a thread of its own gives them to OpenTelemetry (`sdk`), which is imported only
where an endpoint or a file is set, and only in the process that tells: after every fork.

What dies with its process is what it had not handed over: at most the last second of its spans.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from config.tracing.tracer import Tracer

Kind = Literal["internal", "server", "producer", "consumer"]
Value = str | int | float | bool

LINKS_MAX: Final = 16  # of one span: what an engineer still looks through


class Tracing(Struct, frozen=True, forbid_unknown_fields=True):
    """Spans of calls, batches and outcomes, for OpenTelemetry; needs the extra `otel`."""

    # Where OTLP over HTTP is taken: `http://collector:4318`. Its header fields, for a password, are
    # OpenTelemetry's own: OTEL_EXPORTER_OTLP_HEADERS.
    endpoint: str = ""
    file: str = ""  # a line of OTLP's JSON for every export is added to it
    # Of the calls whose caller says nothing of sampling, so large a share begins a trace that is
    # followed; those of callers who do say, as they say.
    sample_share: Annotated[float, Meta(ge=0, le=1)] = 0.01

    @property
    def is_on(self) -> bool:
        """Whether anything is told to anybody."""
        return bool(self.endpoint or self.file)


class Context(NamedTuple):
    """A place in a trace (W3C Trace Context): its id of 128 bits, and a span's of 64.

    `state` is the caller's `tracestate`, "" where it sent none: what its vendors want said of every
    span of the trace, such as the share that was sampled.
    """

    trace: int
    span: int
    state: str = ""

    def traceparent(self) -> str:
        """Write it as a header field; what has a context here is followed, and so flagged."""
        return f"00-{self.trace:032x}-{self.span:016x}-01"

    def child(self) -> Context:
        """Return a new place in the same trace."""
        return begin(self.trace, self.state)


class Event(NamedTuple):
    """A moment within a span, by the wall clock."""

    name: str
    at_ns: int


class Span(Struct, frozen=True, kw_only=True):
    """What something took, told when it is over; times are of the wall clock.

    `fault` is the kind of error that ended it; "" where none did.
    """

    name: str
    kind: Kind
    context: Context
    parent: Context | None
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value | Sequence[str]]
    events: Sequence[Event] = ()
    links: Sequence[Context] = ()
    fault: str = ""


def begin(trace: int, state: str = "") -> Context:
    """Return a new place in a trace."""
    return Context(trace, random.getrandbits(64) or 1, state)


def wall_ns(moments: Iterable[float]) -> list[int]:
    """Say when moments of `time.perf_counter` were, by the wall clock; in one go they keep order."""
    offset_ns = time.time_ns() - time.perf_counter_ns()
    return [offset_ns + round(at * 1e9) for at in moments]


def checks(tracing: Tracing) -> list[tuple[bool, str]]:
    """Return what must hold, each with its fault."""
    return [
        (
            not tracing.endpoint or tracing.endpoint.startswith(("http://", "https://")),
            "tracing.endpoint: must begin with http:// or https://, such as http://collector:4318",
        ),
        (
            not tracing.is_on or _is_installed(),
            (
                "tracing: OpenTelemetry is not installed; install tidegate[otel], or set neither "
                "tracing.endpoint nor tracing.file"
            ),
        ),
    ]


def open_tracer(tracing: Tracing, process: str) -> Tracer | None:
    """Begin to tell spans as this process; None where nobody wants them. Call after the last fork."""
    if not tracing.is_on:
        return None
    from config.tracing.sdk import open_exporters  # noqa: PLC0415  # it imports OpenTelemetry
    from config.tracing.tracer import Tracer  # noqa: PLC0415

    return Tracer(open_exporters(process, tracing.endpoint, tracing.file))


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
