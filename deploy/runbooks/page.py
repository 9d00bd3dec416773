"""A runbook as it is written: four sections, and in them blocks that say who is asked for what.

A block's language names who is asked: `sh` a command, `sql` PostgreSQL as tidegate_auditor, `valkey`
Valkey, `http` the API, `metrics` the processes' metrics. README.md in this folder tells people the
same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Final, Literal, get_args

from msgspec import Struct

Kind = Literal["sh", "sql", "valkey", "http", "metrics"]

FEELS: Final = "What the user feels"
FIRST_LOOK: Final = "First look"
LEVERS: Final = "Levers"
ESCALATE: Final = "When to escalate"
SECTIONS: Final = (FEELS, FIRST_LOOK, LEVERS, ESCALATE)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WHOLE: Final[tuple[Kind, ...]] = ("sql", "metrics")  # of the others each line is one question


class Step(Struct, frozen=True):
    """One question, and the words that come before it; empty when they came before another."""

    words: str
    kind: Kind
    asked: str


class Page(Struct, frozen=True):
    """One runbook. `about` is the sentence under the title; `sections` have their texts by heading."""

    alert: str
    about: str
    sections: Mapping[str, str]

    @property
    def first_look(self) -> Sequence[Step]:
        """The questions of the first look, in order."""
        return list(steps(self.sections[FIRST_LOOK]))


class PageError(Exception):
    """A page that is not written as runbooks are."""


def alerts() -> list[str]:
    """Return the alerts that have a runbook."""
    folder = resources.files("deploy") / "runbooks"
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".md") for name in names if name.startswith("Tidegate"))


def read(alert: str) -> Page:
    """Read an alert's runbook; raises FileNotFoundError, and PageError if it lacks a section."""
    file = resources.files("deploy") / "runbooks" / f"{alert}.md"
    return parse(file.read_text(encoding="utf-8"))


def parse(text: str) -> Page:
    """Take a page apart; raises PageError if it lacks a section, or has another."""
    head, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    title, _, about = head.strip().partition("\n")
    sections = {}
    for part in parts:
        heading, _, body = part.partition("\n")
        sections[heading.strip()] = body.strip()
    if tuple(sections) != SECTIONS:
        raise PageError(f"{title}: expected the sections {SECTIONS}, found {tuple(sections)}")
    return Page(title.removeprefix("# "), about.strip(), sections)


def steps(text: str) -> Iterator[Step]:
    """Yield every question of a text, in order; raises PageError for a block of another kind."""
    end = 0
    for block in _BLOCK.finditer(text):
        words, end = text[end : block.start()].strip(), block.end()
        kind = block[1]
        if kind not in get_args(Kind):
            raise PageError(f"a block of {kind}; known are {get_args(Kind)}")
        body = block[2].strip()
        for asked in [body] if kind in _WHOLE else body.splitlines():
            yield Step(words, kind, asked)  # type: ignore[arg-type]
            words = ""
