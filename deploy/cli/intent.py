"""`tidegate intent`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click
from msgspec.structs import asdict

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from workers.store.outbox import Delivery
    from workers.store.story import Order, Story

Event = tuple[datetime, str]


@click.group()
def intent() -> None:
    """Look at single intents."""


@intent.command()
@click.argument("intent_id", type=click.UUID)
@data_option
@json_option
def explain(intent_id: UUID, data: Path | None, as_json: bool) -> int:
    """Tell the whole story of one intent, with times (UTC). Exits 1 where nobody knows it."""
    settings = connection_settings(data)
    from workers.store import outbox
    from workers.store import story as store
    from workers.store.pool import AUDITOR, Bounds, connect

    # The ledger is read by its batch: seconds at most, where nothing of it is in memory.
    bounds = Bounds(statement_timeout_ms=60_000)
    with connect(settings.postgres.dsn, AUDITOR, bounds, name="explain") as connection:
        found = store.read(connection, intent_id)
        # Read after it: whatever the story has as decided was noted in the same commit.
        deliveries = outbox.read_deliveries(connection, intent_id)
    if found is None:
        click.echo(f"tidegate: nobody knows intent {intent_id}; was it pruned?", err=True)
        return faults.NOT_FINE
    lines = [_text(found), *_delivery_lines(found, deliveries)]
    show({**asdict(found), "deliveries": deliveries}, "\n".join(lines), as_json=as_json)
    return 0


def _text(story: Story) -> str:
    lines = [f"intent {story.intent_id}: {story.status}"]
    if story.wish is not None:
        wish = story.wish
        lines += [
            f"  {wish.kind} of user {wish.user_id} in campaign {wish.campaign_id}",
            f"  from gateway {wish.gateway_id} under key {wish.idempotency_key!r}",
            f"  {bytes(wish.body).decode()}",
        ]
    else:
        lines.append("  its journal row was pruned")
    events = sorted(_events(story), key=lambda event: event[0])
    lines += ["", *(f"  {at:%Y-%m-%d %H:%M:%S.%f}  {what}" for at, what in events)]
    if story.order is not None:
        lines += ["", *_order_lines(story, story.order)]
    return "\n".join(lines)


def _events(story: Story) -> Iterator[Event]:
    """Yield everything that has a time; sorted, it is the story."""
    if story.wish is not None:
        yield story.wish.accepted_at, "accepted"
    for hand in story.in_hands:
        yield hand.claimed_at, f"in the hands of {hand.worker}, batch {hand.batch_id}"
    if story.open is not None:
        yield from _waiting(story)
    if story.decision is not None:
        yield story.decision.decided_at, _decided(story)
    yield from _order_events(story)
    yield from _coupon_events(story)
    if story.quarantine is not None:
        attempts = f"quarantined after {story.quarantine.attempts} attempts"
        yield story.quarantine.quarantined_at, f"{attempts}: {story.quarantine.error}"
        if story.quarantine.retried_as is not None:
            yield story.quarantine.quarantined_at, f"retried as {story.quarantine.retried_as}"
    if story.retry_of is not None and story.wish is not None:
        yield story.wish.accepted_at, f"as the retry of {story.retry_of}"


def _waiting(story: Story) -> Iterator[Event]:
    if story.open is None:
        return
    yield story.open.dispatch_after, "is hinted at again, if it is still open"
    if story.open.attempts or story.open.last_error:
        failed = f"{story.open.attempts} failed attempts, the last: {story.open.last_error}"
        yield story.open.retry_after or story.open.dispatch_after, f"may be tried again ({failed})"


def _decided(story: Story) -> str:
    decision = story.decision
    assert decision is not None
    what = "committed" if decision.reason is None else f"refused: {decision.reason}"
    if story.wish is None:
        return what
    sojourn_ms = (decision.decided_at - story.wish.accepted_at).total_seconds() * 1000
    return f"{what}, {sojourn_ms:.1f} ms after it was accepted"


def _order_events(story: Story) -> Iterator[Event]:
    if story.order is None:
        return
    yield story.order.created_at, f"order made in batch {story.order.batch_id}"
    if story.order.payment_deadline is not None:
        yield story.order.payment_deadline, "payment deadline"
    for payment in story.payments:
        paid = f"payment {payment.reference} of {payment.amount}: {payment.status}"
        yield payment.recorded_at, paid


def _coupon_events(story: Story) -> Iterator[Event]:
    coupon = story.coupon
    if coupon is None:
        return
    yield coupon.issued_at, f"coupon {coupon.coupon_id} issued to {coupon.user_id}"
    if coupon.redeemed_at is not None:
        yield coupon.redeemed_at, f"coupon redeemed by order {coupon.redeemed_by_order}"
    if coupon.valid_until is not None:
        yield coupon.valid_until, "coupon's window ends"
    if coupon.expired_at is not None:
        yield coupon.expired_at, "coupon expired; what it held is back in the budget"


def _order_lines(story: Story, order: Order) -> Iterator[str]:
    money = f"total {order.total}, discount {order.discount}, payable {order.payable}"
    yield f"  order {order.status}: {money} {order.currency}"
    for line in story.lines:
        yield f"    {line.quantity:>3} × {line.sku} at {line.unit_price}"
    yield "  movements of its batch, its neighbours' with them:"
    for movement in story.batch_movements:
        yield f"    {movement.delta:>+14,}  {movement.account}"


def _delivery_lines(story: Story, deliveries: list[Delivery]) -> Iterator[str]:
    """Tell whether its gateway was told; nothing of what is not decided."""
    if story.decision is None and not deliveries:
        return
    yield ""
    if not deliveries:
        yield "  webhooks: none; no endpoint wanted to hear of it then, or what it was told is pruned"
        return
    yield "  webhooks:"
    for delivery in deliveries:
        yield f"    {delivery.event} to endpoint {delivery.endpoint_id}, {delivery.url}:"
        yield f"      {_delivered(delivery)}"


def _delivered(delivery: Delivery) -> str:
    tried = f"{delivery.attempts} failed attempts" if delivery.attempts else "not attempted yet"
    if delivery.last_error:
        tried += f", the last: {delivery.last_error}"
    if delivery.settled_at is not None:
        at = f"{delivery.settled_at:%Y-%m-%d %H:%M:%S.%f}"
        if delivery.state == "delivered":
            return f"delivered {at}, at attempt {delivery.attempts}"
        return f"given up {at}: {tried}; `tidegate webhook replay` delivers it again"
    if delivery.next_attempt_at is None:
        return f"kept back, its endpoint is disabled ({delivery.disabled_reason}); {tried}"
    return f"next attempt {delivery.next_attempt_at:%Y-%m-%d %H:%M:%S}; {tried}"
