"""How results are printed: for people by default, as JSON when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])

json_option: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


def show(result: object, text: str, *, as_json: bool) -> None:
    """Print `result` as JSON, or `text`, which says the same."""
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    click.echo(text)
