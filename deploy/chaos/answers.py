"""What an answer says, as a history keeps it. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from deploy.chaos.history import Entry
from deploy.load.wire import Reply

_MISSING: Final = 404
_CONFLICT: Final = 422
_UNCLEAR: Final = 500  # from here on a call may have had its effect, unless the answer denies it

Said = dict[str, Any]


class _Order(Struct):
    status: str = ""
    total: int = 0
    discount: int = 0
    payable: int = 0


class _Coupon(Struct):
    value: int = 0


class _Body(Struct):
    """What a history keeps of a body: an intent's resource, a `not_accepted`, or a problem."""

    intent_id: str | None = None
    status: str | int | None = None
    reason: str | None = None
    code: str | None = None
    limit: str | None = None
    accepted: str | None = None
    final: bool = False
    order: _Order | None = None
    coupon: _Coupon | None = None


_decode = msgspec.json.Decoder(_Body).decode


def outcome_of(body: _Body) -> str:
    """Spell a told outcome, all of it that may never change; empty for none.

    The status of its order is not part of it: an order goes on to be paid or cancelled.
    """
    if body.status == "refused":
        return f"refused {body.reason}"
    if body.status != "committed":
        return ""
    if body.order is not None:
        return spell_order(body.order.total, body.order.discount, body.order.payable)
    return spell_coupon(body.coupon.value if body.coupon is not None else 0)


def spell_order(total: int, discount: int, payable: int) -> str:
    """Spell the outcome of an intent that became an order."""
    return f"committed {total} - {discount} = {payable}"


def spell_coupon(value: int) -> str:
    """Spell the outcome of an issuance."""
    return f"committed coupon {value}"


def read_post(reply: Reply | None) -> Said:
    """Read the answer to a posted intent: a receipt, a no, or neither."""
    if reply is None:
        return {"phase": "unknown"}
    body = _body(reply)
    if reply.status in (200, 202):
        if body.intent_id is not None:
            return {"phase": "ok", **_resource(body), "http": reply.status}
        if body.status == "not_accepted":
            reason = body.reason or ""
            return {"phase": "no", "reason": reason, "final": body.final, "http": reply.status}
        return {"phase": "unknown", "http": reply.status}
    surely_not = reply.status < _UNCLEAR or body.accepted == "no"
    why = body.limit or body.code or ""
    return {"phase": "no" if surely_not else "unknown", "reason": why, "http": reply.status}


def is_definite(entry: Entry) -> bool:
    """Tell whether a no will be the same when it is asked again: not one of load or limits."""
    return entry.http == 200 or (400 <= entry.http < _UNCLEAR and entry.http != 429)


def read_poll(reply: Reply | None) -> Said:
    """Read the answer to a question after an intent."""
    if reply is None:
        return {"phase": "unknown"}
    if reply.status == _MISSING:
        return {"phase": "missing", "http": reply.status}
    body = _body(reply)
    if reply.status == 200 and body.intent_id is not None:
        return {"phase": "ok", **_resource(body), "http": reply.status}
    return {"phase": "unknown", "http": reply.status}


def read_rebody(reply: Reply | None) -> Said:
    """Read the answer to another wish under a known key: `no` is the conflict it should be."""
    if reply is None:
        return {"phase": "unknown"}
    body = _body(reply)
    if reply.status == _CONFLICT and body.code == "idempotency_conflict":
        return {"phase": "no", "reason": body.code, "http": reply.status}
    if reply.status in (200, 202) and body.intent_id is not None:
        return {"phase": "ok", "intent_id": body.intent_id, "http": reply.status}
    # Any other no means that the key was not known: as wrong as to take the wish.
    if reply.status in (200, 429) or body.accepted == "no":
        return {"phase": "missing", "reason": body.reason or body.code or "", "http": reply.status}
    return {"phase": "unknown", "http": reply.status}


def read_change(reply: Reply | None) -> Said:
    """Read the answer to a payment or a cancel: done (now or before), surely refused, or neither."""
    if reply is None or reply.status >= _UNCLEAR:
        return {"phase": "unknown", "http": reply.status if reply is not None else 0}
    body = _body(reply)
    if reply.status == 200:
        return {"phase": "ok", **_resource(body), "http": reply.status}
    return {"phase": "no", "reason": body.code or "", "http": reply.status}


def _resource(body: _Body) -> Said:
    order_status = body.order.status if body.order is not None else ""
    return {
        "intent_id": body.intent_id or "",
        "outcome": outcome_of(body),
        "order_status": order_status,
    }


def _body(reply: Reply) -> _Body:
    try:
        return _decode(reply.body)
    except msgspec.MsgspecError:
        return _Body()
