"""What answers mean. No I/O, no clock, no waiting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from producer.client import texts
from producer.client.faults import GatewayFault, fault
from producer.client.model import (
    Accepted,
    Appointment,
    Committed,
    Coupon,
    IntentResult,
    Issued,
    NotAccepted,
    Order,
    Refused,
    Wish,
)
from producer.client.pacing import WAIT_S_MAX, http_date, told_s

T = TypeVar("T")

_TICKET = re.compile(r"[\x21-\x7e]{1,2000}")
_POLL_MS: Final = 500.0
_CLOCK_S: Final = 1.0  # the API's clock is known from whole seconds


class Reply(Struct, frozen=True):
    """An answer; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Lost(Struct, frozen=True):
    """No answer. `sent`: the API may have got the call, and done it. `detail` is for a log."""

    sent: bool
    detail: str


class No(Struct, frozen=True, kw_only=True):
    """This send was surely not taken, for a reason that passes. `told_s` None: it was not told when.

    `looked_up`: the API said that no earlier send of the same key was taken either. `window_s` is how
    long the appointment lasts, which begins `told_s` from now.
    """

    limit: str
    looked_up: bool = False
    told_s: float | None = None
    appointment: Appointment | None = None
    window_s: float = 0.0
    level: str | None = None
    code: str = ""
    message: str = ""
    detail: str = ""


class Doubt(Struct, frozen=True):
    """It is not known what came of it: ask again, with the same key. `told_s` is the least wait."""

    told_s: float = 0.0
    message: str = ""
    detail: str = ""


Verdict = IntentResult | NotAccepted | No | Doubt | GatewayFault


class _Resource(Struct):
    """Everything that a good answer about an intent may hold."""

    status: str
    intent_id: UUID | None = None
    reason: str | None = None
    order: Order | None = None
    coupon: Coupon | None = None
    message: str | None = None
    estimated_wait_ms: float = 0.0
    poll_after_ms: float = _POLL_MS
    final: bool = False
    odds: float | None = None
    try_again_at: datetime | None = None


class _FieldError(Struct):
    field: str = ""
    detail: str = ""


class Problem(Struct):
    """Everything that a problem may hold."""

    code: str = ""
    detail: str = ""
    message: str = ""
    trace_id: str = ""
    limit: str | None = None
    level: str | None = None
    accepted: str | None = None
    retry_after_ms: float | None = None
    resume_at: datetime | None = None
    appointment: Appointment | None = None
    errors: tuple[_FieldError, ...] = ()


class _Item(Struct):
    status_code: int
    idempotent_replayed: bool = False


_resource = msgspec.json.Decoder(_Resource)
_problem = msgspec.json.Decoder(Problem)
_items = msgspec.json.Decoder(list[msgspec.Raw])
_item = msgspec.json.Decoder(_Item)


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    """Decode an answer; None for what is not the API's."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def problem_of(reply: Reply) -> Problem:
    """Read a problem; an answer that is none (a proxy's, say) tells nothing but its status."""
    return decoded(_problem, reply.body) or Problem(detail=f"HTTP {reply.status}")


def read(heard: Reply | Lost, sent: Wish, wall: datetime) -> Verdict:
    """Say what an answer to a post of `sent`, or to a question about it, means.

    `wall` is this machine's clock; times are reckoned from the API's own, where it tells it.
    """
    if isinstance(heard, Lost):
        if heard.sent:
            return Doubt(detail=heard.detail)
        return No(limit="connection", detail=heard.detail)
    if heard.status in (200, 202):
        resource = decoded(_resource, heard.body)
        told = None if resource is None else _told(resource, heard, sent)
        return told or Doubt(detail="an answer that cannot be read")
    return _read_problem(heard, sent, wall)


def read_many(heard: Reply | Lost, sent: Sequence[Wish], wall: datetime) -> list[Verdict]:
    """Say what the answer to a batch means for each of its wishes, in order."""
    if isinstance(heard, Reply) and heard.status == 200:
        raw = decoded(_items, heard.body) or []
        items = [decoded(_item, bytes(one)) for one in raw]
        if len(items) != len(sent):
            heard = Lost(True, "an answer that cannot be read")
        else:
            return [
                read(_reply_of(item, bytes(body), heard), one, wall)
                for item, body, one in zip(items, raw, sent, strict=True)
            ]
    return [read(heard, one, wall) for one in sent]


def order_of(reply: Reply) -> tuple[Order, str] | None:
    """Read the order that a payment or cancel tells, with its message."""
    resource = decoded(_resource, reply.body)
    if resource is None or resource.order is None:
        return None
    return resource.order, resource.message or ""


def fault_of(reply: Reply) -> GatewayFault:
    """Read what is wrong with a call."""
    problem = problem_of(reply)
    detail = problem.detail
    if problem.errors and not any(
        error.field and error.field in detail for error in problem.errors
    ):
        detail += " " + "; ".join(f"{error.field}: {error.detail}" for error in problem.errors)
    return fault(
        reply.status, problem.code, detail, trace_id=problem.trace_id, message=problem.message
    )


def wait_told_s(reply: Reply, wall: datetime) -> float | None:
    """Read when a problem asks to come back, in seconds."""
    problem = problem_of(reply)
    now = server_now(reply, wall)
    told = told_s(reply.headers.get("retry-after"), problem.retry_after_ms, now)
    if problem.resume_at is not None and problem.resume_at.tzinfo is not None:
        told = max(told or 0.0, min((problem.resume_at - now).total_seconds(), WAIT_S_MAX))
    return told


def server_now(reply: Reply, wall: datetime) -> datetime:
    """Return the API's time, to the second and never ahead of it; this machine's where not told."""
    return http_date(reply.headers.get("date")) or wall


def is_unclear(status: int) -> bool:
    """Tell whether a status leaves open what was done: a fault on the way, or of the API's own."""
    return status >= 500 or status in (408, 425)


def _told(resource: _Resource, reply: Reply, sent: Wish) -> IntentResult | NotAccepted | None:
    message = resource.message or ""
    key, replayed = sent.idempotency_key, "idempotent-replayed" in reply.headers
    if resource.status == "not_accepted":
        return NotAccepted(
            message=message,
            idempotency_key=key,
            reason=resource.reason or "",
            final=resource.final,
            odds=resource.odds,
            try_again_at=resource.try_again_at,
        )
    if resource.intent_id is None:
        return None
    said = {"intent_id": resource.intent_id, "idempotency_key": key, "replayed": replayed}
    match resource.status:
        case "accepted":
            return Accepted(
                message=message or texts.accepted(sent.kind, sent.locale),
                estimated_wait_ms=int(resource.estimated_wait_ms),
                poll_after_ms=int(max(0.0, resource.poll_after_ms)),
                **said,  # type: ignore[arg-type]
            )
        case "refused":
            return Refused(message=message, reason=resource.reason or "", **said)  # type: ignore[arg-type]
        case "committed" if resource.order is not None:
            return Committed(message=message, order=resource.order, **said)  # type: ignore[arg-type]
        case "committed" if resource.coupon is not None:
            return Issued(message=message, coupon=resource.coupon, **said)  # type: ignore[arg-type]
        case _:
            return None


def _read_problem(reply: Reply, sent: Wish, wall: datetime) -> No | Doubt | GatewayFault:
    problem = problem_of(reply)
    limited = reply.status == 429
    if not limited and not is_unclear(reply.status):
        return fault_of(reply)
    told = wait_told_s(reply, wall)
    # Whoever sent a key only once, and made it, knows more than an API that did not look it up.
    first = problem.code == "intake_full" and not sent.key_told and sent.doubt_since is None
    if not limited and problem.accepted != "no" and not first:
        return Doubt(told or 0.0, problem.message, problem.detail)
    no = No(
        limit=problem.limit or problem.code or f"http_{reply.status}",
        looked_up=problem.accepted == "no",
        told_s=told,
        level=problem.level,
        code=problem.code,
        message=problem.message,
        detail=problem.detail,
    )
    return _with_appointment(no, problem.appointment, server_now(reply, wall))


def _with_appointment(no: No, appointment: Appointment | None, now: datetime) -> No:
    """Let the appointment say when to come; the wait told beside it only where it lies within."""
    if appointment is None or not _TICKET.fullmatch(appointment.ticket):
        return no
    starts, ends = appointment.not_before, appointment.not_after
    if starts.tzinfo is None or ends.tzinfo is None:
        return no
    starts_s = min(max(0.0, (starts - now).total_seconds()), WAIT_S_MAX)
    ends_s = (ends - now).total_seconds()
    within = no.told_s is not None and starts_s <= no.told_s <= ends_s - _CLOCK_S
    told = no.told_s if within and no.told_s is not None else starts_s
    window_s = max(0.0, ends_s - told)
    return msgspec.structs.replace(no, told_s=told, appointment=appointment, window_s=window_s)


def _reply_of(item: _Item | None, body: bytes, batch: Reply) -> Reply | Lost:
    """Make of a batch's item what the call alone would have been answered."""
    if item is None:
        return Lost(True, "an item that cannot be read")
    headers = {"date": batch.headers["date"]} if "date" in batch.headers else {}
    if item.idempotent_replayed:
        headers["idempotent-replayed"] = "true"
    return Reply(item.status_code, headers, body)


def utc(seconds: float) -> datetime:
    """Return a Unix time as a moment."""
    return datetime.fromtimestamp(seconds, UTC)
