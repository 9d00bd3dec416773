"""Log lines: one event, one line, one write, and in it nothing that a user sent.

Our own events take structlog's native path; the records of the standard library (Celery, kombu,
uvicorn) are bridged into the same lines, and so is what nobody caught. Processes write to standard
output, where collectors read; commands to standard error, for their output is their result.

Levels mean: `error`, somebody has to look at it, a fault of ours; `warning`, something we depend on
or hear from is not as it should be, and was borne; `info`, what was done, and changes of state;
`debug`, how. Libraries are a level quieter. What repeats itself is told a few times and then counted
(`config.repetition`), but for wide events: those are sampled or counted by who writes them.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config import exceptions
from config.lines import Lines, LinesBehind
from config.redaction import Redaction, text
from config.repetition import Key, Repetition

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]  # auto: text on a terminal, JSON lines elsewhere
Stream = Literal["stdout", "stderr"]

# What the kernel writes to a pipe in one piece (POSIX, PIPE_BUF on Linux): lines of processes that
# share one never mix. What is longer loses its longest values.
LINE_BYTES_MAX: Final = 4_096
# What one event may be told by, beside its name, to be another than the last.
_IDENTITY: Final = (
    "logger",
    "dependency",
    "duty",
    "lane",
    "endpoint",
    "why",
    "reason",
    "error",
)
# Texts of libraries whose arguments are addresses of ours and errors of connections; of all others
# only numbers are told, for Celery writes whole messages of the broker into its errors.
_TOLD_WHOLE: Final = (
    "consumer: Cannot connect to",
    "Connected to",
    "Uvicorn running on",
    "%s ready.",
)
# Where a library's finished text goes over from its words to what it was given.
_VALUES_BEGIN: Final = (": ", "(", "[", "{", "<", "'", '"', "=")
_HIDDEN: Final = "…"
# How Python writes a warning: file, line and kind, then what its author made of it.
_WARNING: Final = re.compile(r"(\S+:\d+: \w+Warning): (.*)", re.DOTALL)

repetition: Final = Repetition()


def configure(
    process: str,
    level: Level = "info",
    fmt: Format = "auto",
    *,
    to: Stream = "stdout",
    pepper: str = "",
) -> None:
    """Send every log event of this process to one stream, named `process`.

    Call once at the start of a process, before it forks or starts threads. With the same `pepper`
    the same user has the same digest in every process; it is to be a secret of the deployment.
    """
    descriptor = 1 if to == "stdout" else 2
    pretty = os.isatty(descriptor) if fmt == "auto" else fmt == "text"
    _out.descriptor, _out.lines = descriptor, Lines(descriptor)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _count,
            _stamp(process),
            _redact(Redaction(pepper or os.urandom(16).hex())),
            _pretty(colors=os.isatty(descriptor)) if pretty else _json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=lambda *_: _out.lines,
        # Loggers are made at import, before this is called, and again after a fork.
        cache_logger_on_first_use=False,
    )
    _bridge(_number("info" if level == "debug" else max(level, "warning", key=_number)))
    if to == "stdout":
        _catch_uncaught()
    atexit.unregister(flush)
    atexit.register(flush)


def write_behind() -> None:
    """From now on write from a thread: for a process that serves many from one, and does not fork."""
    _out.lines = LinesBehind(_out.descriptor, _tell_unwritten)


def flush() -> None:
    """Tell what was left out so far, and write what waits; later lines are written at once.

    For the end of a process; to be called by one that ends without running exit handlers.
    """
    _tell_left_out(repetition.ended(now_all=True))
    _out.lines.close()


class _Out:
    """Where lines go: loggers are made anew for each event."""

    descriptor = 2
    lines = Lines(descriptor)


_out: Final = _Out()


# Processors --------------------------------------------------------------------------------------


def _count(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Let through what is wide, and the first few of what is not."""
    _tell_left_out(repetition.ended())
    if not event.pop("wide", False) and not repetition.admit(_key(event)):
        raise structlog.DropEvent
    return event


def _key(event: EventDict) -> Key:
    named = [event[name] for name in _IDENTITY if name in event]
    raised = event.get("exc_info")
    if raised:
        named.append(raised if isinstance(raised, BaseException) else sys.exc_info()[1])
    parts = [
        exceptions.kind_of(part) if isinstance(part, BaseException) else text(str(part))
        for part in named
    ]
    return (event["level"], text(str(event["event"])), *parts)


def _tell_left_out(counted: list[tuple[Key, int]]) -> None:
    for (level, event, *which), left_out in counted:
        say = getattr(structlog.get_logger(), level or "warning")
        say("repeated", of=event, which=which, left_out=left_out, wide=True)


def _tell_unwritten(count: int) -> None:
    structlog.get_logger().warning("lines not written in time", left_out=count, wide=True)


def _stamp(process: str) -> Processor:
    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        first = {"at": at, "level": event["level"], "process": process, "pid": os.getpid()}
        return {**first, "event": event["event"], **event}

    return stamp


def _redact(redaction: Redaction) -> Processor:
    def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        raised = event.pop("exc_info", None)
        if raised is True:
            raised = sys.exc_info()[1]
        elif isinstance(raised, tuple):
            raised = raised[1]
        if isinstance(raised, BaseException):
            event["exception"] = exceptions.trace(raised)
        return redaction.event(event)

    return redact


_encode: Final = msgspec.json.Encoder().encode


def _json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    line = _encode(event)
    while len(line) >= LINE_BYTES_MAX:
        event = _shortened(event)
        line = _encode(event)
    return line + b"\n"


def _shortened(event: EventDict) -> EventDict:
    """Halve the longest value, or do without it."""
    longest = max(event, key=lambda key: len(_encode(event[key])))
    value, shorter = event[longest], {**event, "cut": True}
    if isinstance(value, str) and len(value) > 1:
        middle = len(value) // 2
        shorter[longest] = value[middle:] if longest == "exception" else value[:middle]
    else:
        del shorter[longest]
    return shorter


def _pretty(*, colors: bool) -> Processor:
    console = structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="at")

    def render(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
        return f"{console(logger, name, event)}\n".encode(errors="backslashreplace")

    return render


# Libraries ---------------------------------------------------------------------------------------


class _Bridge(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        say: Callable[..., Any] = getattr(log, record.levelname.lower(), log.info)
        raised = record.exc_info[1] if record.exc_info else None
        try:
            say(_words(record), logger=record.name, exc_info=raised)
        except Exception:  # as logging.Handler asks: a line never breaks its caller
            with suppress(Exception):  # and the handler's own way would print the arguments
                log.error("record not told", logger=record.name)


def _words(record: logging.LogRecord) -> str:
    """Return what a library says, without the values it says it of."""
    template = record.msg
    if not isinstance(template, str):
        return str(_argument(template, whole=False))
    if not record.args:
        warned = _WARNING.match(template)
        return _before_values(template) if warned is None else _warning(*warned.groups())
    whole = template.startswith(_TOLD_WHOLE)
    args: Any = record.args
    try:
        if isinstance(args, Mapping):
            said = template % {name: _argument(arg, whole=whole) for name, arg in args.items()}
        else:
            said = template % tuple(_argument(arg, whole=whole) for arg in args)
    except (TypeError, ValueError):  # a text where the template wants a number
        said = template
    return said.strip().partition("\n")[0]


def _argument(value: object, *, whole: bool) -> object:
    if isinstance(value, int | float):
        return value
    if isinstance(value, BaseException):
        return _Plain(exceptions.line(value))
    return _Plain(str(value) if whole else _HIDDEN)


class _Plain(str):
    """A text that `%r` does not quote."""

    __slots__ = ()
    __repr__ = str.__str__


def _warning(where: str, said: str) -> str:
    return f"{where}: {_before_values(said)}"


def _before_values(said: str) -> str:
    """Cut a finished text where it may go on with what somebody sent."""
    said = said.strip().partition("\n")[0]
    ends = [said.find(mark) for mark in _VALUES_BEGIN if mark in said]
    return f"{said[: min(ends)].rstrip()} {_HIDDEN}" if ends else said


def _bridge(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def _catch_uncaught() -> None:
    """Tell what nobody caught in a line as well; the interpreter would print its message."""
    logging.captureWarnings(True)

    def in_main(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        structlog.get_logger().critical("process ends", exc_info=error)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            structlog.get_logger().error("thread ends", exc_info=args.exc_value)

    def in_passing(args: Any) -> None:
        structlog.get_logger().error("error ignored", exc_info=args.exc_value)

    sys.excepthook = in_main
    threading.excepthook = in_thread
    sys.unraisablehook = in_passing


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))


os.register_at_fork(after_in_child=repetition.forget)
