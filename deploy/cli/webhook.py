"""`tidegate webhook`: where gateways hear of outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from config.settings import require_secrets
from deploy.cli import faults, webhook_posting
from deploy.cli.acting import connected, overlap_option, reason_option, shown_once
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option
from workers.domain.delivery import EVENTS, EventType

if TYPE_CHECKING:
    from config.settings import Settings
    from workers.contract.webhook import WebhookSecrets
    from workers.store.outbox import Wanted
    from workers.store.webhooks import EndpointRecord, NewSecret

F = TypeVar("F", bound=Callable[..., Any])

id_argument: Callable[[F], F] = click.argument("endpoint_id", metavar="ID", type=int)


@click.group()
def webhook() -> None:
    """Register the endpoints that hear of outcomes, test them, deliver again.

    Messages are CloudEvents, signed as in Standard Webhooks.
    """


@webhook.command()
@click.argument("gateway_id", metavar="GATEWAY")
@click.argument("url")
@click.option(
    "--events",
    metavar="TYPE,…",
    help=f"What it wants to hear; all of it where none is named: {', '.join(EVENTS)}.",
)
@click.option("--dry-run", is_flag=True, help="Check the URL, and register nothing.")
@reason_option
@data_option
@json_option
def register(
    *,
    gateway_id: str,
    url: str,
    events: str | None,
    dry_run: bool,
    reason: str | None,
    data: Path | None,
    as_json: bool,
) -> int:
    """Send the events of GATEWAY to URL from now on, and show the secret that signs them, once."""
    from deploy.actor import whoami
    from workers.domain.destination import Refused
    from workers.store import webhooks

    wanted = _events(events)
    settings = _settings(data)
    try:
        asyncio.run(webhook_posting.check(settings, url))
    except Refused as refused:
        click.echo(f"tidegate: nothing of ours is sent to {url}: {refused}", err=True)
        return faults.NOT_FINE
    if dry_run:
        result = {"gateway_id": gateway_id, "url": url, "events": wanted, "dry_run": True}
        show(result, f"{url} would be registered", as_json=as_json)
        return 0
    with connected(settings, "webhook") as connection:
        made = webhooks.register(
            connection,
            _secrets(settings),
            gateway_id,
            url,
            wanted,
            actor=whoami(),
            reason=reason,
        )
    _show_secret(made, as_json=as_json)
    return 0


@webhook.command()
@id_argument
@overlap_option("the secret of before signs as well")
@reason_option
@data_option
@json_option
def rotate(
    *, endpoint_id: int, overlap_s: int, reason: str | None, data: Path | None, as_json: bool
) -> None:
    """Give endpoint ID another secret, shown once; both sign during the overlap."""
    from deploy.actor import whoami
    from workers.store import webhooks

    settings = _settings(data)
    with connected(settings, "webhook") as connection:
        made = webhooks.rotate(
            connection,
            _secrets(settings),
            endpoint_id,
            overlap_s=overlap_s,
            actor=whoami(),
            reason=reason,
        )
    _show_secret(made, as_json=as_json)


@webhook.command()
@id_argument
@data_option
@json_option
def test(*, endpoint_id: int, data: Path | None, as_json: bool) -> int:
    """Send a tidegate.test to endpoint ID now, and show its answer. Exit 1 unless it is 2xx."""
    from deploy.actor import whoami
    from workers.runtime.relay import build_writer
    from workers.store import webhooks

    settings = _settings(data)
    with connected(settings, "webhook") as connection:
        endpoint = webhooks.read_one(connection, endpoint_id, actor=whoami())
    posted = asyncio.run(webhook_posting.post_test(settings, build_writer(settings), endpoint))
    result = {"endpoint_id": endpoint_id, **webhook_posting.answer_told(*posted)}
    show(result, webhook_posting.answer_text(endpoint.url, *posted), as_json=as_json)
    return 0 if posted[1].delivered else faults.NOT_FINE


@webhook.command()
@id_argument
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"]),
    help="What happened since then, UTC.",
)
@click.option(
    "--event",
    help="One event of an intent by its id (evt_…), all of an intent by the intent's id, "
    "or all of a type.",
)
@click.option("--dead", "dead_only", is_flag=True, help="Only what was given up.")
@click.option("--dry-run", is_flag=True, help="Say how many, and deliver nothing.")
@reason_option
@data_option
@json_option
def replay(
    *,
    endpoint_id: int,
    since: datetime | None,
    event: str | None,
    dead_only: bool,
    dry_run: bool,
    reason: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Deliver events again to endpoint ID, the oldest first, with the ids they had.

    Only what was settled, delivered or given up, and is kept still; what waits is delivered anyway.
    """
    if since is None and event is None and not dead_only:
        raise click.UsageError("give --since, --event or --dead")
    from deploy.actor import whoami
    from workers.store import webhooks

    wanted = _wanted(since, event, dead_only=dead_only)
    with connected(connection_settings(data), "webhook", patient=True) as connection:
        count = webhooks.replay(
            connection,
            endpoint_id,
            wanted,
            actor=whoami(),
            reason=reason,
            dry_run=dry_run,
        )
    done = "would be delivered again" if dry_run else "to be delivered again"
    result = {"endpoint_id": endpoint_id, "events": count, "dry_run": dry_run}
    show(result, f"endpoint {endpoint_id}: {count:,} events {done}", as_json=as_json)


@webhook.command()
@id_argument
@reason_option
@data_option
@json_option
def disable(*, endpoint_id: int, reason: str | None, data: Path | None, as_json: bool) -> None:
    """Note and deliver nothing for endpoint ID any more; what waits for it is kept for some days."""
    from workers.store import webhooks

    _switch(webhooks.disable, "disabled", endpoint_id, reason, data, as_json=as_json)


@webhook.command()
@id_argument
@reason_option
@data_option
@json_option
def enable(*, endpoint_id: int, reason: str | None, data: Path | None, as_json: bool) -> None:
    """Deliver what waits for endpoint ID, and note events for it again.

    Those of the meantime were not noted: ask the API for these intents.
    """
    from workers.store import webhooks

    _switch(webhooks.enable, "enabled", endpoint_id, reason, data, as_json=as_json)


@webhook.command("list")
@data_option
@json_option
def list_all(data: Path | None, as_json: bool) -> None:
    """List the endpoints: how they fare, what waits for them, what was given up."""
    from workers.store import webhooks

    with connected(connection_settings(data), "webhook") as connection:
        found = webhooks.list_endpoints(connection)
    show(found, "\n".join(map(_lines, found)) or "no endpoint was registered yet", as_json=as_json)


def _switch(
    switch: Callable[..., bool],
    done: str,
    endpoint_id: int,
    reason: str | None,
    data: Path | None,
    *,
    as_json: bool,
) -> None:
    from deploy.actor import whoami

    with connected(connection_settings(data), "webhook") as connection:
        changed = switch(connection, endpoint_id, actor=whoami(), reason=reason)
    text = f"endpoint {endpoint_id} {done if changed else f'was {done} already'}"
    show({"endpoint_id": endpoint_id, "changed": changed}, text, as_json=as_json)


def _events(given: str | None) -> list[str]:
    if given is None:
        return list(EVENTS)
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in EVENTS]
    if unknown or not names:
        msg = f"expected some of {', '.join(EVENTS)}; got {', '.join(unknown) or 'none'}"
        raise click.BadParameter(msg, param_hint="--events")
    return names


def _wanted(since: datetime | None, event: str | None, *, dead_only: bool) -> Wanted:
    from workers.contract.webhook import intent_of_event_id
    from workers.store.outbox import Wanted

    at = None if since is None else since.replace(tzinfo=UTC)
    if event is None:
        return Wanted(since=at, dead_only=dead_only)
    if event in EVENTS:
        return Wanted(since=at, event=event, dead_only=dead_only)
    if event.startswith("evt_level_"):
        msg = (
            f"{event!r} tells of no intent; write `--event {EventType.LEVEL_CHANGED.value} "
            "--since T`, with the time of the change"
        )
        raise click.BadParameter(msg, param_hint="--event")
    named = intent_of_event_id(event)
    if named is not None:
        return Wanted(since=at, subject_id=named[0], event=f"%.{named[1]}", dead_only=dead_only)
    try:
        return Wanted(since=at, subject_id=UUID(event), dead_only=dead_only)
    except ValueError:
        msg = f"{event!r} is no event's id, no intent's, and no type of events"
        raise click.BadParameter(msg, param_hint="--event") from None


def _settings(data: Path | None) -> Settings:
    """Load what is needed to sign as well."""
    settings = connection_settings(data)
    require_secrets(settings)
    return settings


def _secrets(settings: Settings) -> WebhookSecrets:
    from workers.contract.webhook import WebhookSecrets

    return WebhookSecrets(settings.secrets.master, settings.secrets.old_masters)


def _show_secret(made: NewSecret, *, as_json: bool) -> None:
    from workers.contract.webhook import spell

    result = {
        "endpoint_id": made.endpoint_id,
        "gateway_id": made.gateway_id,
        "url": made.url,
        "secret": spell(made.secret),
    }
    rows = {name.removesuffix("_id"): str(value) for name, value in result.items()}
    text = shown_once(rows, "Keep it now: it is not shown again.")
    show(result, text, as_json=as_json)


def _lines(found: EndpointRecord) -> str:
    state = "enabled"
    if found.failures:
        state = f"failing ({found.failures} in a row)"
    if found.disabled_at is not None:
        state = f"disabled {found.disabled_at:%Y-%m-%d %H:%M} UTC: {found.disabled_reason}"
    lines = [
        f"{found.endpoint_id:<4} {found.gateway_id:<24} {found.url}",
        f"     {state}; {found.waiting:,} to be delivered, {found.dead:,} given up",
        f"     {' '.join(name.removeprefix('tidegate.') for name in found.events)}",
    ]
    if found.oldest_at is not None:
        lines.append(f"     waiting since {found.oldest_at:%Y-%m-%d %H:%M:%S} UTC")
    if found.last_error:
        lines.append(f"     last trouble: {found.last_error}")
    return "\n".join(lines)
