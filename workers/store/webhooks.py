"""Endpoints of webhooks: registered, rotated, disabled, listed; and their health.

What an operator does, and its line in the operators' record, is one transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from workers.contract.webhook import WebhookSecrets
from workers.domain.delivery import (
    BACKLOG_MAX,
    EVENTS,
    RETRY_DELAYS_S,
    disabling_reason,
    is_failing,
)
from workers.store.arrays import bigints
from workers.store.campaigns import record_action
from workers.store.outbox import FIGURES_MAX, SWEEP_MAX, Wanted, count_replayable, replay_many
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("webhooks")
OVERLAP_S_MAX = 30 * 86_400
GONE = "gone"  # the receiver's own word: 410


class WebhookError(Exception):
    """An endpoint is not what the command needs; the message says what is."""


class NewSecret(Struct, frozen=True, kw_only=True):
    """An endpoint's secret, for the moment in which it is shown."""

    endpoint_id: int
    gateway_id: str
    url: str
    secret: bytes


class EndpointRecord(Struct, frozen=True, kw_only=True):
    """What is told of an endpoint. `waiting` and `dead` are counted as far as `FIGURES_MAX`.

    `last_error` is the latest of what waits or was given up.
    """

    endpoint_id: int
    gateway_id: str
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failures: int
    failing_since: datetime | None
    old_secret_until: datetime | None
    waiting: int
    oldest_at: datetime | None
    dead: int
    last_error: str | None


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint as a relay works with it. Nothing is sent within the next `pause_s`.

    The first of `secret_refs` is the current one.
    """

    endpoint_id: int
    gateway_id: str
    url: str
    secret_refs: tuple[str, ...]
    failures: int
    pause_s: float
    failing_s: float


class Health(Struct, frozen=True):
    """An endpoint's failures in a row, and for how long it is to be left alone."""

    endpoint_id: int
    failures: int
    pause_ms: int


def register(
    connection: Connection,
    secrets: WebhookSecrets,
    gateway_id: str,
    url: str,
    events: Sequence[str] = EVENTS,
    *,
    actor: str,
    reason: str | None = None,
) -> NewSecret:
    """Add an endpoint to a gateway; events from the next commit on are for it.

    Whoever calls has checked the URL. Raises WebhookError for a gateway that is none.
    """
    ref = secrets.new_ref()
    with connection.transaction():
        revoked = connection.execute(
            _SQL.gateway_revoked_read, {"gateway_id": gateway_id}
        ).fetchone()
        if revoked is None or revoked[0]:
            raise WebhookError(
                f"there is no gateway {gateway_id}, or it was revoked; "
                "`tidegate gateway list` names those there are"
            )
        parameters = {
            "gateway_id": gateway_id,
            "url": url,
            "events": list(dict.fromkeys(events)),
            "secret_ref": ref,
        }
        endpoint_id = connection.execute(_SQL.endpoint_insert, parameters).fetchall()[0][0]
        _record(connection, actor, "register", endpoint_id, reason, gateway=gateway_id, url=url)
    return NewSecret(
        endpoint_id=endpoint_id,
        gateway_id=gateway_id,
        url=url,
        secret=secrets.secret_of(endpoint_id, ref),
    )


def rotate(
    connection: Connection,
    secrets: WebhookSecrets,
    endpoint_id: int,
    *,
    overlap_s: int,
    actor: str,
    reason: str | None = None,
) -> NewSecret:
    """Give an endpoint another secret; the one before signs beside it for `overlap_s` seconds."""
    if not 0 <= overlap_s <= OVERLAP_S_MAX:
        raise WebhookError(f"expected an overlap from 0 to {OVERLAP_S_MAX} s, got {overlap_s}")
    ref = secrets.new_ref()
    with connection.transaction():
        gateway_id, url, *_ = _lock(connection, endpoint_id)
        connection.execute(
            _SQL.secret_rotate,
            {"endpoint_id": endpoint_id, "secret_ref": ref, "overlap_s": overlap_s},
        )
        _record(connection, actor, "rotate", endpoint_id, reason, overlap_s=overlap_s)
    return NewSecret(
        endpoint_id=endpoint_id,
        gateway_id=gateway_id,
        url=url,
        secret=secrets.secret_of(endpoint_id, ref),
    )


def disable(
    connection: Connection, endpoint_id: int, *, actor: str, reason: str | None = None
) -> bool:
    """Note and deliver nothing more for an endpoint; False where that was so already."""
    with connection.transaction():
        _lock(connection, endpoint_id)
        done = _disable(connection, endpoint_id, "operator")
        if done:
            _record(connection, actor, "disable", endpoint_id, reason)
    return done


def enable(
    connection: Connection, endpoint_id: int, *, actor: str, reason: str | None = None
) -> bool:
    """Deliver what waits for an endpoint, and note events for it again; False: it was enabled."""
    with connection.transaction():
        gateway_id, _, disabled, *_ = _lock(connection, endpoint_id)
        revoked = connection.execute(
            _SQL.gateway_revoked_read, {"gateway_id": gateway_id}
        ).fetchall()[0][0]
        if revoked:
            raise WebhookError(
                f"gateway {gateway_id} was revoked, for good; "
                "register the endpoint for another: `tidegate webhook register`"
            )
        if disabled:
            connection.execute(_SQL.endpoint_enable, {"endpoint_id": endpoint_id})
            _record(connection, actor, "enable", endpoint_id, reason)
    return bool(disabled)


def replay(
    connection: Connection,
    endpoint_id: int,
    wanted: Wanted,
    *,
    actor: str,
    reason: str | None = None,
    dry_run: bool = False,
) -> int:
    """Deliver settled events again, the oldest first; return how many. Commits in steps.

    Raises WebhookError for an endpoint that is disabled: nothing is delivered to it.
    """
    # What is queued after this moment is none of this replay's.
    before = connection.execute(_SQL.clock_read).fetchall()[0][0]
    with connection.transaction():
        _, _, disabled, *_ = _lock(connection, endpoint_id)
        if disabled:
            raise WebhookError(
                f"endpoint {endpoint_id} is disabled, and nothing is delivered to it; "
                f"`tidegate webhook enable {endpoint_id}` first"
            )
        count = count_replayable(connection, endpoint_id, wanted, before)
        if dry_run or not count:
            return count
        _record(
            connection,
            actor,
            "replay",
            endpoint_id,
            reason,
            events=count,
            since=wanted.since,
            intent_id=wanted.subject_id,
            event=wanted.event,
            dead_only=wanted.dead_only,
        )
    done, queued = 0, SWEEP_MAX
    while queued == SWEEP_MAX:
        queued = replay_many(connection, endpoint_id, wanted, before)
        done += queued
    return done


def read_one(connection: Connection, endpoint_id: int, *, actor: str) -> Endpoint:
    """Return an endpoint that is to be tested, disabled or not, and keep who tested it."""
    with connection.transaction():
        gateway_id, url, _, *refs = _lock(connection, endpoint_id)
        _record(connection, actor, "test", endpoint_id, None)
    return Endpoint(
        endpoint_id=endpoint_id,
        gateway_id=gateway_id,
        url=url,
        secret_refs=tuple(filter(None, refs)),
        failures=0,
        pause_s=0.0,
        failing_s=0.0,
    )


def list_endpoints(connection: Connection, endpoint_id: int | None = None) -> list[EndpointRecord]:
    """Return all endpoints, or the one that is named, with what waits for each."""
    rows = connection.execute(
        _SQL.endpoints_list,
        {
            "endpoint_id": endpoint_id,
            "count_max": FIGURES_MAX,
            "delays_s": bigints(list(map(round, RETRY_DELAYS_S))),
        },
    )
    fields = EndpointRecord.__struct_fields__
    return [EndpointRecord(**dict(zip(fields, row, strict=True))) for row in rows]


def read_enabled(connection: Connection) -> list[Endpoint]:
    """Return the endpoints that are to be told anything."""
    return [
        Endpoint(
            endpoint_id=endpoint_id,
            gateway_id=gateway_id,
            url=url,
            secret_refs=tuple(filter(None, (ref, old_ref))),
            failures=failures,
            pause_s=pause_s,
            failing_s=failing_s,
        )
        for (
            endpoint_id,
            gateway_id,
            url,
            ref,
            old_ref,
            failures,
            pause_s,
            failing_s,
        ) in connection.execute(_SQL.endpoints_read)
    ]


def record_health(connection: Connection, found: Sequence[Health]) -> None:
    """Keep how endpoints fare, for the other relays and for operators."""
    connection.execute(
        _SQL.health_record,
        {
            "endpoint_ids": bigints([health.endpoint_id for health in found]),
            "failures": bigints([health.failures for health in found]),
            "pauses_ms": bigints([health.pause_ms for health in found]),
        },
    )


def disable_gone(connection: Connection, endpoint_id: int) -> bool:
    """Disable an endpoint that answered 410; False where it is disabled."""
    return _disable(connection, endpoint_id, GONE)


def disable_hopeless(connection: Connection) -> list[tuple[int, str]]:
    """Disable endpoints that have failed too long, or for which too much waits; return (id, why)."""
    disabled = []
    for endpoint in read_enabled(connection):
        if not is_failing(endpoint.failures):
            continue
        parameters = {"endpoint_id": endpoint.endpoint_id, "count_max": BACKLOG_MAX + 1}
        backlog = connection.execute(_SQL.backlog_count, parameters).fetchall()[0][0]
        why = disabling_reason(endpoint.failing_s, backlog)
        if why is not None and _disable(connection, endpoint.endpoint_id, why):
            disabled.append((endpoint.endpoint_id, why))
    return disabled


def _disable(connection: Connection, endpoint_id: int, why: str) -> bool:
    parameters = {"endpoint_id": endpoint_id, "reason": why}
    return connection.execute(_SQL.endpoint_disable, parameters).rowcount > 0


def _lock(connection: Connection, endpoint_id: int) -> tuple[Any, ...]:
    row = connection.execute(_SQL.endpoint_lock, {"endpoint_id": endpoint_id}).fetchone()
    if row is None:
        raise WebhookError(f"there is no endpoint {endpoint_id}; see `tidegate webhook list`")
    return row


def _record(
    connection: Connection,
    actor: str,
    action: str,
    endpoint_id: int,
    reason: str | None,
    **detail: object,
) -> None:
    record_action(
        connection, actor, f"webhook {action}", f"webhook:{endpoint_id}", reason, **detail
    )
