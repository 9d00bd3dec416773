"""Payment and cancel: each takes effect once, however often it is sent. Never shed."""

from __future__ import annotations

from typing import assert_never
from uuid import UUID

from msgspec.structs import replace

from producer.http import decoding
from producer.http.calls import INTENT_BYTES_MAX, NO_STORE, Call, Reply
from producer.http.intents import not_found
from producer.http.problems import Code, Problem
from producer.http.replies import outcome
from workers.contract.resource import IntentResource
from workers.domain.lifecycle import Answer
from workers.store import lifecycle, resources
from workers.store.pool import Connection


async def post_payment(call: Call) -> Reply:
    """`POST /v1/orders/{order_id}/payment`: money came in."""
    gateway = await call.authorise("orders:write")
    payment = decoding.decode(decoding.PAYMENT, await call.json_body(INTENT_BYTES_MAX))
    order_id = _order_id(call)

    def pay(connection: Connection) -> tuple[Answer, IntentResource] | None:
        paid = lifecycle.pay(
            connection, order_id, gateway.gateway_id, payment.payment_reference, payment.amount
        )
        return None if paid is None else _with_resource(connection, order_id, paid.answer)

    return _reply(call, await call.api.desk.change(pay))


async def post_cancel(call: Call) -> Reply:
    """`POST /v1/orders/{order_id}/cancel`: everything is returned."""
    gateway = await call.authorise("orders:write")
    body = await call.body(INTENT_BYTES_MAX)
    if body:
        decoding.decode(decoding.CANCEL, body)
    order_id = _order_id(call)

    def cancel(connection: Connection) -> tuple[Answer, IntentResource] | None:
        cancelled = lifecycle.cancel(connection, order_id, gateway.gateway_id)
        if cancelled is None:
            return None
        return _with_resource(connection, order_id, cancelled.answer)

    return _reply(call, await call.api.desk.change(cancel))


def _order_id(call: Call) -> UUID:
    try:
        return UUID(call.parameter("order_id"))
    except ValueError:
        raise not_found() from None


def _with_resource(
    connection: Connection, order_id: UUID, answer: Answer
) -> tuple[Answer, IntentResource]:
    return answer, resources.read_many(connection, [order_id])[order_id]


def _reply(call: Call, changed: tuple[Answer, IntentResource] | None) -> Reply:
    """Tell what a payment or cancel came to; raises Problem where it was not what was asked for."""
    if changed is None:
        raise not_found()
    answer, resource = changed
    call.locale = resource.locale
    match answer:
        case Answer.PAID | Answer.ALREADY_PAID | Answer.CANCELLED | Answer.ALREADY_CANCELLED:
            reply = outcome(resource, call.api, call.language)
            return replace(reply, headers=[*reply.headers, NO_STORE])
        case Answer.AMOUNT_WRONG:
            detail = "The amount is not what is payable. Nothing was changed, and nothing recorded."
            raise Problem(Code.AMOUNT_WRONG, detail)
        case Answer.PAYMENT_TOO_LATE:
            detail = "The order was released at its deadline. The payment is recorded for refund."
            raise Problem(Code.PAYMENT_TOO_LATE, detail)
        case Answer.RECORDED_FOR_REFUND:
            detail = "The order is paid or cancelled. The payment is recorded for refund."
            raise Problem(Code.RECORDED_FOR_REFUND, detail)
        case Answer.NOT_CANCELLABLE:
            detail = "The order was not paid in time, and everything was released then."
            raise Problem(Code.NOT_CANCELLABLE, detail)
        case Answer.EXPIRED | Answer.NOT_DUE:
            raise AssertionError("nobody asked for it to expire")
        case _:
            assert_never(answer)
