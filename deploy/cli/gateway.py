"""`tidegate gateway`: who may ask, by which keys, how much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy.cli.acting import connected, overlap_option, reason_option, shown_once
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option
from producer.http.auth import OPERATOR_SCOPES, SCOPES

if TYPE_CHECKING:
    from config.settings import Settings
    from workers.store.gateways import GatewayRecord, NewKey

F = TypeVar("F", bound=Callable[..., Any])

rate_option: Callable[[F], F] = click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Intents a second."
)
burst_option: Callable[[F], F] = click.option(
    "--burst", type=click.IntRange(min=1), help="Intents at once."
)


@click.group()
def gateway() -> None:
    """Make gateways, their keys and their quotas."""


@gateway.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice((*SCOPES, *OPERATOR_SCOPES)),
    help="What its keys allow; where none is named, all but the operators'.",
)
@rate_option
@burst_option
@reason_option
@data_option
@json_option
def create(
    *,
    name: str,
    scopes: tuple[str, ...],
    rate: float | None,
    burst: int | None,
    reason: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Make gateway NAME and show its first key, once."""
    from deploy.actor import whoami
    from workers.store import gateways

    settings = connection_settings(data)
    with connected(settings, "gateway") as connection:
        key = gateways.create_gateway(
            connection,
            name,
            scopes or SCOPES,
            rate=rate,
            burst=burst,
            actor=whoami(),
            reason=reason,
        )
    _show_key(key, settings, as_json=as_json)


@gateway.command()
@click.argument("name")
@overlap_option("the keys of before are good still")
@reason_option
@data_option
@json_option
def rotate(
    *, name: str, overlap_s: int, reason: str | None, data: Path | None, as_json: bool
) -> None:
    """Give gateway NAME another key, shown once; its others end after the overlap."""
    from deploy.actor import whoami
    from workers.store import gateways

    settings = connection_settings(data)
    with connected(settings, "gateway") as connection:
        key = gateways.rotate_key(
            connection, name, overlap_s=overlap_s, actor=whoami(), reason=reason
        )
    _show_key(key, settings, as_json=as_json)


@gateway.command()
@click.argument("name")
@click.option("--key", "key_id", help="Only the key of this id.")
@reason_option
@data_option
@json_option
def revoke(
    *, name: str, key_id: str | None, reason: str | None, data: Path | None, as_json: bool
) -> None:
    """Revoke gateway NAME for good, or one of its keys; it holds within seconds."""
    from deploy.actor import whoami
    from workers.store import gateways

    with connected(connection_settings(data), "gateway") as connection:
        keys = gateways.revoke(connection, name, key_id, actor=whoami(), reason=reason)
    what = f"key {key_id} of {name}" if key_id else f"gateway {name}, {keys} keys"
    show({"gateway_id": name, "keys_revoked": keys}, f"revoked: {what}", as_json=as_json)


@gateway.command()
@click.argument("name")
@rate_option
@burst_option
@click.option("--none", "no_quota", is_flag=True, help="Only the limit that campaigns set.")
@reason_option
@data_option
@json_option
def quota(
    *,
    name: str,
    rate: float | None,
    burst: int | None,
    no_quota: bool,
    reason: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Limit gateway NAME to a rate and a burst of its own."""
    if no_quota == (rate is not None) or (rate is None) != (burst is None):
        raise click.UsageError("give --rate and --burst, or --none")
    from deploy.actor import whoami
    from workers.store import gateways

    with connected(connection_settings(data), "gateway") as connection:
        gateways.set_quota(connection, name, rate, burst, actor=whoami(), reason=reason)
    text = f"{name}: no quota of its own" if no_quota else f"{name}: {rate:g}/s, burst {burst}"
    show({"gateway_id": name, "rate": rate, "burst": burst}, text, as_json=as_json)


@gateway.command("list")
@data_option
@json_option
def list_all(data: Path | None, as_json: bool) -> None:
    """List the gateways and the ids of their keys."""
    from workers.store import gateways

    with connected(connection_settings(data), "gateway") as connection:
        found = gateways.list_gateways(connection)
    show(found, "\n".join(map(_lines, found)) or "no gateway was made yet", as_json=as_json)


def _lines(record: GatewayRecord) -> str:
    limit = f"{record.rate:g}/s, burst {record.burst}" if record.rate else "no quota of its own"
    ended = f"; revoked {record.revoked_at:%Y-%m-%d %H:%M} UTC" if record.revoked_at else ""
    lines = [f"{record.gateway_id:<24} {limit}; {' '.join(record.scopes)}{ended}"]
    for key in record.keys:
        until = f", revoked from {key.revoked_at:%Y-%m-%d %H:%M} UTC" if key.revoked_at else ""
        lines.append(f"  key {key.key_id:<18} made {key.created_at:%Y-%m-%d %H:%M} UTC{until}")
    return "\n".join(lines)


def _show_key(key: NewKey, settings: Settings, *, as_json: bool) -> None:
    """Print a key and what it signs with; neither is kept."""
    from workers.contract.signing import signing_key

    master = settings.secrets.master
    signs_with = signing_key(master, key.key_id) if master else None
    rows = {
        "gateway": key.gateway_id,
        "key id": key.key_id,
        "key": key.key,
        "signing key": f"{signs_with or 'needs secrets.master'}   (for Celery; never sent)",
    }
    result = {
        "gateway_id": key.gateway_id,
        "key_id": key.key_id,
        "key": key.key,
        "signing_key": signs_with,
    }
    text = shown_once(rows, "Keep them now: the key is not shown again.")
    show(result, text, as_json=as_json)
