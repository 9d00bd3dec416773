"""Many intents in one call: each has its own answer, and no bad one spoils its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from uuid import UUID

from config.tracing import Context
from producer.answers import Accepted, Posted
from producer.http import decoding, headers
from producer.http.auth import Gateway
from producer.http.calls import BATCH_BYTES_MAX, INTENT_BYTES_MAX, Call, Reply
from producer.http.problems import Code, Problem
from producer.http.replies import REPLAYED, reply_to
from producer.tracing import INTENTS_MAX
from workers.contract.ids import uuid7_many

ITEMS_MAX = 500

_Item = decoding.KeyedOrderIntent | Problem


async def post_batch(call: Call) -> Reply:
    """`POST /v1/intents/batch`: up to 500 intents, as NDJSON or as an array; answered alike."""
    gateway = await call.authorise("intents:write")
    call.require_media_type((*headers.JSON, *headers.NDJSON))
    body = await call.body(BATCH_BYTES_MAX)
    lines = headers.is_media_type(call.headers.get(b"content-type"), headers.NDJSON)
    items = [_read(raw) for raw in (_lines(body) if lines else _array(body))]
    results = await _submit(call, gateway, items)
    if lines:
        return Reply(200, b"\n".join([*results, b""]), [(b"content-type", headers.NDJSON[0])])
    return Reply(200, b"[%b]" % b",".join(results), [(b"content-type", headers.JSON[0])])


def _lines(body: bytes) -> Sequence[bytes]:
    return _bounded([line for line in body.split(b"\n") if line.strip()])


def _array(body: bytes) -> Sequence[bytes]:
    return _bounded([bytes(raw) for raw in decoding.decode(decoding.ITEMS, body)])


def _bounded(raw: Sequence[bytes]) -> Sequence[bytes]:
    if not raw:
        raise Problem(Code.MALFORMED_BODY, "The batch holds no intent.")
    if len(raw) > ITEMS_MAX:
        raise Problem(Code.BODY_TOO_LARGE, f"A batch holds at most {ITEMS_MAX} intents.")
    return raw


def _read(raw: bytes) -> _Item:
    """Read one intent, or say what is wrong with it."""
    try:
        if len(raw) > INTENT_BYTES_MAX:
            detail = f"At most {INTENT_BYTES_MAX:,} bytes are read as one intent."
            raise Problem(Code.BODY_TOO_LARGE, detail)
        return decoding.decode(decoding.KEYED_ORDER, raw)
    except Problem as problem:
        # They hold the frames of this call, which will hold the problem: a circle around its body.
        problem.__traceback__ = problem.__context__ = None
        return problem


async def _submit(call: Call, gateway: Gateway, items: Sequence[_Item]) -> list[bytes]:
    """Submit what can be read, and write every item's result, in order."""
    replies = {at: call.render(item) for at, item in enumerate(items) if isinstance(item, Problem)}
    accepted: list[UUID] = []
    places = _places(call)
    for wave in _waves(items):
        ids = uuid7_many(len(wave))
        posted = [
            Posted(
                intent_id=intent_id,
                gateway_id=gateway.gateway_id,
                idempotency_key=item.idempotency_key,
                intent=item.plain(),
                appointment=item.appointment,
            )
            for intent_id, (_, item) in zip(ids, wave, strict=True)
        ]
        followed = [one.at(place) for one, place in zip(posted, places, strict=False)]
        answers = await call.api.intake.submit_many([*followed, *posted[len(followed) :]])
        for (at, item), answer in zip(wave, answers, strict=True):
            call.locale = item.locale
            replies[at] = reply_to(answer, call)
        accepted += [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    call.items, call.accepted = Counter([reply.status for reply in replies.values()]), accepted
    return [_result(replies[at]) for at in range(len(items))]


def _places(call: Call) -> Iterator[Context]:
    """Yield the place in a trace of the first few intents of a call that is followed."""
    place = None if call.api.traces is None else call.api.traces.follow(call)
    return iter(()) if place is None else repeat(place, INTENTS_MAX)


def _waves(
    items: Sequence[_Item],
) -> Iterator[list[tuple[int, decoding.KeyedOrderIntent]]]:
    """Part the items so that a key said again comes after the first one was answered."""
    waves: list[list[tuple[int, decoding.KeyedOrderIntent]]] = []
    said: dict[tuple[str, str], int] = {}
    for at, item in enumerate(items):
        if isinstance(item, Problem):
            continue
        key = (item.user_id, item.idempotency_key)
        turn = said[key] = said.get(key, -1) + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append((at, item))
    yield from waves


def _result(reply: Reply) -> bytes:
    """Write what the call alone would have answered, with its status."""
    replayed = b',"idempotent_replayed":true' if REPLAYED in reply.headers else b""
    return b'{"status_code":%d%b,%b' % (reply.status, replayed, reply.body[1:])
