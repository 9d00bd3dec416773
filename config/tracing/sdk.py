"""Spans as OpenTelemetry has them, and where they go. The one module that imports it."""

from __future__ import annotations

import json
import os
import socket
from base64 import b64decode
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from opentelemetry import trace
from opentelemetry.context import Context as Carried
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from config.tracing import Context, Span

_PATH: Final = "/v1/traces"  # where OTLP over HTTP takes them
_TIMEOUT_S: Final = 5  # of one export with its repetitions; the queue holds what comes meanwhile
_KINDS: Final = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
}
_FAULT: Final = trace.Status(trace.StatusCode.ERROR)


def open_exporters(process: str, endpoint: str, file: str) -> SdkExports:
    """Make what hands spans to an endpoint, to a file, or to both, as this process."""
    exporters: list[SpanExporter] = []
    if endpoint:
        url = endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        exporters.append(OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S))
    if file:
        exporters.append(FileExporter(file))
    return SdkExports(process, exporters)


class SdkExports:
    """Makes OpenTelemetry's spans of ours, and hands them to its exporters."""

    def __init__(self, process: str, exporters: Sequence[SpanExporter]) -> None:
        self._exporters = exporters
        self._ids = _Ids()
        self._ended = _Ended()
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # whom to follow was decided where the trace began
            resource=_resource(process),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("tidegate", version("tidegate"))

    def export(self, spans: Sequence[Span]) -> bool:
        """See `Exports`."""
        for span in spans:
            self._make(span)
        ended, self._ended.spans = self._ended.spans, []
        taken = [one.export(ended) is SpanExportResult.SUCCESS for one in self._exporters]
        return all(taken)

    def interrupt(self) -> None:
        """See `Exports`."""
        for exporter in self._exporters:
            exporter.shutdown()

    def _make(self, span: Span) -> None:
        self._ids.next = span.context
        made = self._tracer.start_span(
            span.name,
            Carried() if span.parent is None else _carried(span.parent),  # its state is the span's
            _KINDS[span.kind],
            span.attributes,
            [trace.Link(_context(one)) for one in span.links],
            span.began_ns,
        )
        for event in span.events:
            made.add_event(event.name, timestamp=event.at_ns)
        if span.fault:
            made.set_status(_FAULT)
            made.set_attribute("error.type", span.fault)
        made.end(span.ended_ns)


class FileExporter(SpanExporter):
    """Adds a line of OTLP's JSON to a file for every export.

    Processes may share the file: a line is one write. Jaeger and the collector's file receiver read
    it.
    """

    def __init__(self, path: str) -> None:
        """Name the file; it is opened for each line, so that it may be moved away."""
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Add a line; raises OSError."""
        line = json.dumps(_otlp(spans), separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)
        return SpanExportResult.SUCCESS


class _Ids(IdGenerator):
    """Gives out the ids that our spans have already: others were told them before these ended."""

    def __init__(self) -> None:
        self.next = Context(0, 0)

    def generate_trace_id(self) -> int:
        return self.next.trace

    def generate_span_id(self) -> int:
        return self.next.span


class _Ended(SpanProcessor):
    """Keeps the spans that were made."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _carried(parent: Context) -> Carried:
    return trace.set_span_in_context(trace.NonRecordingSpan(_context(parent)), Carried())


def _context(of: Context) -> trace.SpanContext:
    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    state = trace.TraceState.from_header([of.state]) if of.state else None
    return trace.SpanContext(of.trace, of.span, True, sampled, state)


def _resource(process: str) -> Resource:
    host, pid = socket.gethostname(), os.getpid()
    return Resource.create(
        {
            "service.name": f"tidegate-{process}",
            "service.version": version("tidegate"),
            "service.instance.id": f"{host}:{pid}",
            "host.name": host,
            "process.pid": pid,
        }
    )


def _otlp(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Write OTLP's JSON: protobuf's, but with ids in hexadecimal digits."""
    said: dict[str, Any] = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for of_resource in said["resourceSpans"]:
        for of_scope in of_resource["scopeSpans"]:
            for span in of_scope["spans"]:
                for part in (span, *span.get("links", ())):
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if name in part:
                            part[name] = b64decode(part[name]).hex()
    return said
