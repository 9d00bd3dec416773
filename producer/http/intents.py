"""Posting one intent, and asking what became of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from uuid import UUID

from msgspec.structs import replace

from producer.answers import Accepted, Answer, Posted, Replayed
from producer.http import decoding, headers
from producer.http.auth import Gateway
from producer.http.calls import INTENT_BYTES_MAX, NO_STORE, Call, Reply
from producer.http.problems import Code, FieldError, Problem
from producer.http.replies import outcome, replay, reply_to
from workers.contract.ids import uuid7
from workers.contract.resource import IntentResource
from workers.domain.intent import IssuanceIntent, Kind, OrderIntent
from workers.store import journal

Tell = Callable[[Reply], None]

_USER_ID_LENGTH_MAX = 128


def post_at_once(call: Call, body: bytes, tell: Tell) -> bool:
    """Post an intent as `post_intent` does, without a task: the short way of the hot route.

    `tell` is called once, with the answer. False: the caller's key has to be looked up first, and
    nothing was done. Raises Problem.
    """
    gateway = call.known_gateway("intents:write")
    if gateway is None:
        return False
    call.require_json()
    _begin(call, gateway, decoding.decode(decoding.ORDER, body), tell)
    return True


async def post_intent(call: Call) -> Reply:
    """`POST /v1/intents`: the wish to buy. The hot route."""
    gateway = await call.authorise("intents:write")
    intent = decoding.decode(decoding.ORDER, await call.json_body(INTENT_BYTES_MAX))
    return await _submit(call, gateway, intent)


async def post_coupon(call: Call) -> Reply:
    """`POST /v1/coupons`: the wish for a coupon."""
    gateway = await call.authorise("coupons:write")
    intent = decoding.decode(decoding.ISSUANCE, await call.json_body(INTENT_BYTES_MAX))
    return await _submit(call, gateway, intent)


async def _submit(call: Call, gateway: Gateway, intent: OrderIntent | IssuanceIntent) -> Reply:
    told: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    _begin(call, gateway, intent, lambda reply: None if told.done() else told.set_result(reply))
    return await told


async def get_intent(call: Call) -> Reply:
    """`GET /v1/intents/{intent_id}`."""
    gateway = await call.authorise("intents:read")
    resource = await own_intent(call, gateway, polled=True)
    return _told(call, resource)


async def find_intent(call: Call) -> Reply:
    """`GET /v1/intents?user_id=…&idempotency_key=…`: what a key is bound to."""
    gateway = await call.authorise("intents:read")
    user_id, key, kind = _key_of_query(call)
    digest = journal.key_digest(gateway.gateway_id, kind, user_id, key)
    _poll(call, gateway, digest)
    bound = await call.api.desk.ask(lambda connection: journal.find_keys(connection, [digest]))
    resource = await call.api.desk.read(bound[digest].intent_id) if digest in bound else None
    return _told(call, _own(call, gateway, resource))


async def own_intent(call: Call, gateway: Gateway, *, polled: bool = False) -> IntentResource:
    """Return the intent of the path; raises Problem (404) unless it is this gateway's.

    `polled`: this is asked again and again, so raises Problem (429, 503) for asking too often.
    """
    try:
        intent_id = UUID(call.parameter("intent_id"))
    except ValueError:
        raise not_found() from None
    if polled:
        _poll(call, gateway, intent_id)
    return _own(call, gateway, await call.api.desk.read(intent_id))


def not_found() -> Problem:
    """Tell that there is no such thing, in the same words for another gateway's."""
    return Problem(Code.NOT_FOUND, "There is no such thing here, or it belongs to another gateway.")


def _poll(call: Call, gateway: Gateway, asked: UUID | bytes) -> None:
    call.api.polls.take((gateway.gateway_id, asked), call.api.levels.standing.level)


def _own(call: Call, gateway: Gateway, resource: IntentResource | None) -> IntentResource:
    if resource is None or resource.gateway_id != gateway.gateway_id:
        raise not_found()
    call.locale = resource.locale
    return resource


def _told(call: Call, resource: IntentResource) -> Reply:
    reply = outcome(resource, call.api, call.language)
    return replace(reply, headers=[*reply.headers, NO_STORE])


def _begin(call: Call, gateway: Gateway, intent: OrderIntent | IssuanceIntent, tell: Tell) -> None:
    """Submit an intent; tell the answer, or the outcome to those who prefer to wait for it."""
    call.locale = intent.locale
    traces = call.api.traces
    posted = Posted(
        intent_id=uuid7(),
        gateway_id=gateway.gateway_id,
        idempotency_key=call.idempotency_key(),
        intent=intent,
        appointment=call.ticket(),
    )
    place = None if traces is None else traces.follow(call)
    if place is not None:
        posted = posted.at(place)
    call.posted = posted
    prefer = call.headers.get(b"prefer")
    wait_s = 0 if prefer is None else headers.wait_s(prefer, call.api.wait_max_s)
    if wait_s:
        _Wait(call, posted, wait_s, tell).begin()
    else:
        call.api.intake.submit_and_tell(posted, functools.partial(_tell, call, tell))


def _tell(call: Call, tell: Tell, answer: Answer) -> None:
    call.given = answer
    try:
        reply = reply_to(answer, call)
    except Exception as error:
        reply = call.failure(error)
    tell(reply)


class _Wait:
    """A caller who prefers the outcome to a receipt, if it comes within `wait_s`."""

    __slots__ = ("_call", "_posted", "_tell", "_wait_s", "_waiter")

    def __init__(self, call: Call, posted: Posted, wait_s: int, tell: Tell) -> None:
        self._call = call
        self._posted = posted
        self._wait_s = wait_s
        self._tell = tell
        self._waiter = call.api.waiters.register(posted.intent_id)  # before anyone can decide it

    def begin(self) -> None:
        self._call.api.intake.submit_and_tell(self._posted, self._answered)

    def _answered(self, answer: Answer) -> None:
        api = self._call.api
        self._call.given = answer
        if isinstance(answer, Accepted):
            api.waiters.sojourn.accepted()
            return self._waiter.tell_outcome(self._wait_s, functools.partial(self._end, answer))
        self._waiter.leave()
        if isinstance(answer, Replayed) and answer.resource.decided_at is None:
            self._waiter = api.waiters.register(answer.resource.intent_id)
            return self._waiter.tell_outcome(
                self._wait_s, functools.partial(self._end, answer), look_first=True
            )
        return self._end(answer, None)

    def _end(self, answer: Answer, decided: IntentResource | None) -> None:
        self._tell(self._call.answer(lambda: self._reply(answer, decided)))

    def _reply(self, answer: Answer, decided: IntentResource | None) -> Reply:
        if not isinstance(answer, Accepted | Replayed):
            return reply_to(answer, self._call)
        api, language = self._call.api, self._call.language
        if decided is None:
            reply = reply_to(answer, self._call)
        elif isinstance(answer, Replayed):
            reply = replay(decided, api, language)
        else:
            reply = outcome(decided, api, language)
        applied = (b"preference-applied", b"wait=%d" % self._wait_s)
        return replace(reply, headers=[*reply.headers, applied])


def _key_of_query(call: Call) -> tuple[str, str, Kind]:
    """Read user, key and kind from the query; raises Problem that names the parameter."""
    query = call.query()
    user_id = query.pop("user_id", "")
    key = query.pop("idempotency_key", "")
    kind = query.pop("kind", Kind.ORDER.value)
    wrong = [FieldError(name, "is not a parameter of this call") for name in query]
    if not 1 <= len(user_id) <= _USER_ID_LENGTH_MAX:
        wrong.append(FieldError("user_id", f"must have 1 to {_USER_ID_LENGTH_MAX} characters"))
    if not 1 <= len(key) <= headers.IDEMPOTENCY_KEY_LENGTH_MAX:
        most = headers.IDEMPOTENCY_KEY_LENGTH_MAX
        wrong.append(FieldError("idempotency_key", f"must have 1 to {most} characters"))
    if kind not in {known.value for known in Kind}:
        wrong.append(FieldError("kind", "must be order or issuance"))
    if wrong:
        detail = "; ".join(f"{error.field} {error.detail}" for error in wrong)
        raise Problem(Code.INVALID_PARAMETER, f"{detail}.", errors=wrong)
    return user_id, key, Kind(kind)
