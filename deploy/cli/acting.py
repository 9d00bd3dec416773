"""What the commands share that change a deployment, and are kept in the operators' record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from config.settings import Settings
    from workers.store.pool import Connection

F = TypeVar("F", bound=Callable[..., Any])

_PATIENT_MS = 600_000

reason_option: Callable[[F], F] = click.option("--reason", help="Kept in the operators' record.")


def overlap_option(what: str) -> Callable[[F], F]:
    """Say for how long, after another was made, `what` of before holds still."""
    return click.option(
        "--overlap",
        "overlap_s",
        type=click.IntRange(min=0),
        default=86_400,
        show_default=True,
        help=f"Seconds for which {what}.",
    )


def connected(settings: Settings, name: str, *, patient: bool = False) -> Connection:
    """Connect as the owner; `patient` is for what reads or writes millions of rows."""
    from workers.store.pool import OWNER, Bounds, connect

    bounds = Bounds(statement_timeout_ms=_PATIENT_MS) if patient else Bounds()
    return connect(settings.postgres.dsn, OWNER, bounds, name=name)


def shown_once(rows: Mapping[str, str], warning: str) -> str:
    """Write what was made with its secret, a line each, and that it is not kept."""
    width = max(map(len, rows)) + 2
    return "\n".join([*(f"{name:<{width}}{value}" for name, value in rows.items()), warning])
