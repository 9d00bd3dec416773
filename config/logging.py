"""Log lines on standard error: one event, one line, one write.

Our own events take structlog's native path; the records of the standard library (Celery, kombu,
uvicorn) are bridged into the same lines. Whatever is called like a secret is masked on the way.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "text"]

MASK = "***"
# Keys whose values are never written, whole or as the last part of a longer key (`db_password`).
_SECRET_KEY = re.compile(
    r"(^|[_.-])(password|passwd|dsn|coupon_code|api_key|authorization|secret|secrets|master|token)$",
    re.IGNORECASE,
)
# Secrets that travel inside texts: passwords of URLs, keys of gateways.
_SECRET_TEXT = re.compile(r"(?<=://)([^:/@\s]*):[^@\s]+@|\btg_[A-Za-z0-9_-]{8,}")
# Libraries that speak of every connection at `info`.
_QUIETER = {"kombu": logging.WARNING, "httpx": logging.WARNING, "amqp": logging.WARNING}
_LINE_LENGTH_MAX = (
    16_384  # bytes; a longer line is cut, so that a traceback cannot flood a collector
)


def configure(process: str, level: Level = "info", fmt: Format = "json") -> None:
    """Send every log event of this process to standard error, named `process`.

    Call once at the start of a process, and again in a forked child to rename it.
    """
    number = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stamp(process),
        _exception_text,
        _mask,
    ]
    structlog.configure(
        processors=[*shared, _render(fmt)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _LineLogger(sys.stderr.buffer),
        # Loggers are made at import, before this is called, and again after a fork.
        cache_logger_on_first_use=False,
    )
    _bridge(number)


class _LineLogger:
    """Writes a line with one system call, so that processes sharing a file never mix lines."""

    _lock = threading.Lock()

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def msg(self, line: bytes) -> None:
        with self._lock:
            self._file.write(line[: _LINE_LENGTH_MAX - 1] + b"\n")
            self._file.flush()

    debug = info = warning = error = critical = exception = log = msg


class _Bridge(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        say: Callable[..., Any] = getattr(log, record.levelname.lower(), log.info)
        try:
            say(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
        except Exception:  # as logging.Handler asks: a line never breaks its caller
            self.handleError(record)


def _bridge(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(level)
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(max(level, least))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def _stamp(process: str) -> structlog.typing.Processor:
    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"at": at, "process": process, **event}

    return stamp


def _exception_text(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    if event.get("exc_info"):
        return structlog.processors.format_exc_info(logger, name, event)
    event.pop("exc_info", None)
    return event


def _mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: object, value: Any) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key):
        return MASK if value else value
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_mask_match, value)
    if isinstance(value, MutableMapping):
        return {inner: _masked(inner, leaf) for inner, leaf in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", item) for item in value]
    return value


def _mask_match(match: re.Match[str]) -> str:
    return MASK if match[1] is None else f"{match[1]}:{MASK}@"


def _render(fmt: Format) -> structlog.typing.Processor:
    if fmt == "json":
        encoder = msgspec.json.Encoder(enc_hook=repr)
        return lambda _, __, event: _encode(encoder, event)
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="at")
    return lambda logger, name, event: _text(console(logger, name, event))


def _text(rendered: object) -> bytes:
    return str(rendered).encode(errors="backslashreplace")


def _encode(encoder: msgspec.json.Encoder, event: EventDict) -> bytes:
    try:
        return encoder.encode(event)
    except (TypeError, ValueError):  # a key no JSON object may have, a lone surrogate
        return encoder.encode({key: _text(value).decode() for key, value in event.items()})
