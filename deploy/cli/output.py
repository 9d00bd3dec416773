"""How results are printed: for people by default, as JSON when asked.

What users wrote is among them, and what a terminal obeys is no less among their letters than among
those of ours: in a result nothing but what can be seen is printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])

# Control characters, those of one byte above ASCII among them (U+009B begins a command to a terminal),
# and what turns the direction of a line round or ends it unseen.
_UNSEEN: Final = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)

json_option: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


def show(result: object, text: str, *, as_json: bool) -> None:
    """Print `result` as JSON, or `text`, which says the same."""
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
        click.echo(_UNSEEN.sub(_escaped, text))
    else:
        click.echo(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text))


def _escaped(found: re.Match[str]) -> str:
    """Write a character of a JSON text as JSON can; beyond the first plane nothing is matched."""
    return f"\\u{ord(found[0]):04x}"
