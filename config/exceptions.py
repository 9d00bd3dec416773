"""What may be told of an exception: where it came from, and of its message what holds no values.

Libraries put what they were given into their messages: PostgreSQL quotes the row (`DETAIL: Key
(user_id)=…`), Python the text that is no number, a decoder the field nobody knows. So a message is
told only where its kind is known to hold none, or after the values were taken out of it; of all
others the type is told, and the lines of code that led there. Libraries are recognised by name: a
process that never loads one pays nothing for it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import Any, Final

WITHHELD: Final = "(message withheld)"
MESSAGE_CHARS_MAX: Final = 300
_FRAMES_MAX = 10  # of each exception, the innermost: where it happened
_LINKS_MAX = 4  # causes of causes
_GAP = "…"

# Packages whose exceptions say what their authors wrote, and never what a caller sent.
_OURS: Final = ("config", "workers", "producer", "deploy")
# Python's own that speak of types and names only.
_PLAIN: Final = frozenset(
    {
        "AssertionError",
        "AttributeError",
        "ImportError",
        "IndexError",
        "MemoryError",
        "ModuleNotFoundError",
        "NameError",
        "NotImplementedError",
        "OverflowError",
        "RecursionError",
        "RuntimeError",
        "TimeoutError",
        "TypeError",
        "UnboundLocalError",
        "ZeroDivisionError",
        "kombu.exceptions.OperationalError",  # the text of a connection's error
    }
)

_FROM_FIRST_QUOTE = re.compile(r"(?<![A-Za-z])[\"'“].*", re.DOTALL)  # not the one of `can't`
# A task is called with what the broker holds; Python names the argument nobody expected.
_ARGUMENT = re.compile(r"(arguments?:? )'.*", re.DOTALL)
# Greedy up to the last place: a name may look like the end of its own sentence.
_NAMED = re.compile(
    r"(unknown field|Invalid enum value|Invalid value) .*(?= - at `\$[^`]*`$)"
    r"|(unknown field|Invalid enum value|Invalid value) .*$",
    re.DOTALL,
)


def told(error: BaseException) -> dict[str, Any]:
    """Describe an exception in one line's worth of fields, without what a user may have sent."""
    kind = kind_of(error)
    if kind.startswith("psycopg.") or _descends(error, "psycopg"):
        return {"type": kind, **_postgres(error)}
    message = _message(error, kind)
    return {"type": kind, "message": message} if message else {"type": kind}


def line(error: BaseException) -> str:
    """Describe an exception in one line of text."""
    fields = told(error)
    kind = fields.pop("type")
    return ": ".join([kind, ", ".join(str(value) for value in fields.values())]).removesuffix(": ")


def trace(error: BaseException) -> str:
    """Return where an exception came from and what caused it; lines of code, no values."""
    parts: list[str] = []
    for link in reversed(list(_chain(error))):
        frames = traceback.extract_tb(link.__traceback__)[-_FRAMES_MAX:]
        parts += [
            f'File "{at.filename}", line {at.lineno}, in {at.name}: {at.line}' for at in frames
        ]
        parts.append(line(link))
    return "\n".join(parts)


def kind_of(error: BaseException) -> str:
    """Name an exception's type, with its package unless it is Python's own."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def decoded(message: str) -> str:
    """Take the names that a body brought itself out of a decoder's message (msgspec)."""
    return _NAMED.sub(lambda found: found[1] or found[2], message)[:MESSAGE_CHARS_MAX]


def _message(error: BaseException, kind: str) -> str:
    root = kind.partition(".")[0]
    if _descends(error, "msgspec"):
        return decoded(str(error))
    if _descends(error, "redis"):
        return _valkey(error, kind)
    if isinstance(error, OSError) and error.strerror:
        return _first_line(f"[Errno {error.errno}] {error.strerror}")
    if root in _OURS or kind in _PLAIN:
        return _first_line(_ARGUMENT.sub(rf"\1{_GAP}", str(error)))
    return WITHHELD if str(error) else ""


def _postgres(error: Any) -> dict[str, Any]:
    """Tell state, primary message and the names of things; never DETAIL, which holds the row."""
    state = error.sqlstate
    if state is None:  # the client's own: of the connection, or of a value it cannot send or read
        text = _first_line(str(error))
        data = "DataError" in {kind.__name__ for kind in type(error).__mro__}
        return {"message": _FROM_FIRST_QUOTE.sub(_GAP, text) if data else text}
    primary = _first_line(error.diag.message_primary or "")
    # Class 22 is of values that cannot be, P0 of what a function of ours raised: both quote them.
    if state[:2] in ("22", "P0"):
        primary = _FROM_FIRST_QUOTE.sub(_GAP, primary)
    told = {"sqlstate": state, "message": primary}
    for name in ("constraint_name", "table_name", "column_name"):
        value = getattr(error.diag, name)
        if value:
            told[name.removesuffix("_name")] = value
    return told


def _valkey(error: BaseException, kind: str) -> str:
    names = {one.__name__ for one in type(error).__mro__}
    if names & {"ConnectionError", "TimeoutError", "ResponseError"}:
        # A server that does not know a command repeats what it was given.
        return _first_line(str(error).partition(", with args")[0])
    return WITHHELD


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what led to it, the latest first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _LINKS_MAX:
        seen.add(id(link))
        yield link
        if link.__cause__ is None and link.__suppress_context__:
            return
        link = link.__cause__ or link.__context__


def _descends(error: BaseException, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(error).__mro__)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:MESSAGE_CHARS_MAX]
