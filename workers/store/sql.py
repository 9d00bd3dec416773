"""Named queries: SQL lives in `queries/*.sql`, one block a query, `-- name --` above it.

A file reads as `{name: statement}`. A doubled name or an empty block is a bug and fails at import.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

_HEADER = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)


class Queries(dict[str, LiteralString]):
    """The queries of one file; an unknown name is an AttributeError."""

    def __getattr__(self, name: str) -> LiteralString:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no query is named {name}") from None


@cache
def queries(file: str) -> Queries:
    """Return the named queries of `queries/{file}.sql`, in the order of the file."""
    text = (files("workers.store") / "queries" / f"{file}.sql").read_text()
    parts = _HEADER.split(text)
    found = Queries()
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in found or not body.strip():
            raise AssertionError(f"{file}.sql: query {name} is doubled or empty")
        # The text ships with the package: as trusted as a literal in the code.
        found[name] = cast(LiteralString, body.strip())
    return found
