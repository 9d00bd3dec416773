"""`tidegate quarantine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from workers.store.pool import Connection
    from workers.store.quarantine import Quarantined, Retried

_ERROR_SHOWN_MAX = 100  # a line a row; `show` says it whole


@click.group()
def quarantine() -> None:
    """Intents that could not be processed. They were told so, and that stands."""


@quarantine.command("list")
@data_option
@json_option
def list_many(data: Path | None, as_json: bool) -> int:
    """List them, the latest first; the thousand latest at most."""
    from workers.store import quarantine as store
    from workers.store.pool import AUDITOR

    with _connection(data, AUDITOR) as connection:
        found = store.list_many(connection)
    show(found, _table(found), as_json=as_json)
    return 0


@quarantine.command("show")
@click.argument("intent_id", type=click.UUID)
@data_option
@json_option
def show_one(intent_id: UUID, data: Path | None, as_json: bool) -> int:
    """Show one with its whole error and what it wished for."""
    from workers.store import quarantine as store
    from workers.store.pool import AUDITOR

    with _connection(data, AUDITOR) as connection:
        try:
            found = store.show(connection, intent_id)
        except store.NotQuarantinedError as unknown:
            return _refused(unknown)
    show(found, _text(found), as_json=as_json)
    return 0


@quarantine.command()
@click.argument("intent_ids", metavar="ID...", type=click.UUID, nargs=-1, required=True)
@click.option("--reason", help="Why; kept with the record of this action.")
@data_option
@json_option
def retry(
    intent_ids: tuple[UUID, ...], reason: str | None, data: Path | None, as_json: bool
) -> int:
    """Journal the same wish as a fresh intent, decided by windows, prices and limits of now.

    The told outcome stands; the fresh intent gets its own. Retrying again gives the same fresh
    intent. The redispatcher brings it to a worker within a second or two.
    """
    from deploy.actor import whoami
    from workers.store import quarantine as store
    from workers.store.pool import OWNER

    done: list[Retried] = []
    code = 0
    with _connection(data, OWNER) as connection:
        for intent_id in intent_ids:
            try:
                done.append(store.retry(connection, intent_id, whoami(), reason))
            except (store.NotQuarantinedError, store.NotRetriableError) as impossible:
                code = _refused(impossible)
    if done or as_json:
        show(done, _retried_text(done), as_json=as_json)
    return code


def _connection(data: Path | None, role: str | None) -> Connection:
    settings = connection_settings(data)
    from workers.store.pool import Bounds, connect

    return connect(settings.postgres.dsn, role, Bounds(), name="quarantine")


def _refused(error: Exception) -> int:
    click.echo(f"tidegate: {error}", err=True)
    return faults.NOT_FINE


def _table(found: Sequence[Quarantined]) -> str:
    lines = [
        f"{one.intent_id}  {one.quarantined_at:%Y-%m-%d %H:%M:%S}  {one.attempts} attempts  "
        f"{_after(one):<12}  {one.error.splitlines()[0][:_ERROR_SHOWN_MAX]}"
        for one in found
    ]
    lines.append(f"{len(found)} in quarantine" if found else "nothing in quarantine")
    return "\n".join(lines)


def _after(one: Quarantined) -> str:
    return "not retried" if one.retry is None else f"retry {one.retry}"


def _text(one: Quarantined) -> str:
    rows = [
        ("intent", one.intent_id),
        ("kind", one.kind),
        ("gateway", one.gateway_id),
        ("user", one.user_id),
        ("campaign", one.campaign_id),
        ("wish", None if one.body is None else bytes(one.body).decode()),
        ("accepted", one.accepted_at),
        ("quarantined", one.quarantined_at),
        ("attempts", one.attempts),
        ("error", one.error),
        ("retried as", one.retried_as),
        ("its outcome", one.retry),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows if value is not None)


def _retried_text(done: Sequence[Retried]) -> str:
    return "\n".join(
        f"{one.intent_id} {'retried' if one.fresh else 'had been retried'} as {one.retried_as}"
        for one in done
    )
