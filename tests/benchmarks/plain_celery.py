"""The baseline: an HTTP intake that sends one Celery task per order, one transaction per task.

Kind to the baseline: the same tables, checks and rows as Tidegate's batch (it calls the same
functions with a batch of one, pipelined), late acknowledgement, a sensible prefetch, prefork. What
it lacks is Tidegate's: no journal before the answer, no gate, no batches.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from celery import Celery

from workers.contract.couponcode import CouponCodes
from workers.contract.ids import uuid7
from workers.domain.decide import decide
from workers.domain.intent import Intent, IntentBody, Kind, OrderIntent
from workers.domain.movements import movements_of
from workers.store import applying, batch, journal
from workers.store.pool import OWNER, Bounds, Connection, connect

app = Celery("plain", broker=os.environ["PLAIN_BROKER"], set_as_current=False)
app.conf.update(
    task_default_queue="plain",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
    accept_content=["json"],
)
_connections: list[Connection] = []
_codes = CouponCodes(os.environ["PLAIN_MASTER"])
_decode = msgspec.json.Decoder(OrderIntent).decode


@app.task(name="plain.place_order")  # type: ignore[untyped-decorator]
def place_order(intent_id: str, key: str, text: str) -> None:
    """Journal, decide and commit one order in one transaction."""
    if not _connections:
        _connections.append(connect(os.environ["PLAIN_DSN"], OWNER, Bounds(), name="plain"))
    connection, one = _connections[0], UUID(intent_id)
    posted = _decode(text)
    body = IntentBody(
        lines=posted.lines,
        coupon_id=_codes.coupon_id_of(posted.coupon_code) if posted.coupon_code else None,
        ttl_ms=posted.ttl_ms,
    )
    with connection.transaction():
        entry = journal.Entry(
            digest=journal.key_digest("plain", Kind.ORDER, posted.user_id, key),
            intent_id=one,
            fingerprint=journal.fingerprint(posted),
            kind=Kind.ORDER,
            gateway_id="plain",
            idempotency_key=key,
            user_id=posted.user_id,
            campaign_id=posted.campaign_id,
            body=body,
        )
        accepted_at = journal.append_many(connection, [entry], 60_000).get(one)
        if accepted_at is None:
            return
        intent = Intent(
            intent_id=one,
            kind=Kind.ORDER,
            gateway_id="plain",
            user_id=posted.user_id,
            campaign_id=posted.campaign_id,
            accepted_at=accepted_at,
            body=body,
        )
        snapshot, now = batch.gather(connection, [intent])
        outcomes = decide([intent], snapshot, now)
        with connection.pipeline():
            applying.apply(
                connection,
                uuid7(),
                outcomes,
                movements_of(outcomes),
                now,
                counted=snapshot.counters,
            )


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def intake(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer 202 once the task is sent."""
    if scope["type"] != "http":
        return
    message = await receive()
    headers = dict(scope["headers"])
    intent_id = str(uuid7())
    _decode(message["body"])  # the same strictness
    place_order.apply_async(
        (intent_id, headers[b"idempotency-key"].decode(), message["body"].decode()), retry=False
    )
    answer = {
        "intent_id": intent_id,
        "status": "accepted",
        "accepted_at": datetime.now(UTC).isoformat(),
    }
    body = msgspec.json.encode(answer)
    start = {
        "type": "http.response.start",
        "status": 202,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})
