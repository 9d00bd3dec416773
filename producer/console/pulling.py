"""The operator's levers over HTTP: strict bodies, dry first, recorded, each key for one pull."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from producer.http.auth import OPERATE
from producer.http.calls import INTENT_BYTES_MAX, JSON_HEADER, NO_STORE, Call, Reply
from producer.http.decoding import decode
from producer.http.problems import Code, FieldError, Problem
from workers.domain.overload import Level
from workers.store import levels, levers
from workers.store.levels import LevelChange
from workers.store.levers import Pause, Until
from workers.store.pool import Connection
from workers.store.pulling import LASTING_MAX, AbsentError, KeyBoundError, LeverError, Pull

REASON_LENGTH_MAX: Final = 500
_REASON: Final = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\Z"
_REPLAYED: Final = (b"idempotent-replayed", b"true")

# One line that says something: it is shown to whoever asks why.
Reason = Annotated[str, Meta(max_length=REASON_LENGTH_MAX, pattern=_REASON)]
Seconds = Annotated[int, Meta(ge=1, le=int(LASTING_MAX.total_seconds()))]


class LevelLever(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order a level for the whole system, or lift the order.

    `close` lets nothing in; `force` orders the `level` that is named; `open` lifts the order that
    stands, and the governor decides again. Without `for_s` (seconds) it holds until it is lifted.
    With `dry_run` nothing is done, and whom it would touch is counted.
    """

    action: Literal["close", "force", "open"]
    reason: Reason
    dry_run: bool
    level: Level | None = None
    for_s: Seconds | None = None


class PauseLever(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pause something, for `for_s` seconds or until it is resumed; or resume it."""

    action: Literal["pause", "resume"]
    reason: Reason
    dry_run: bool
    for_s: Seconds | None = None


LEVEL: Final = msgspec.json.Decoder(LevelLever)
PAUSE: Final = msgspec.json.Decoder(PauseLever)


async def post_level(call: Call) -> Reply:
    """`POST /v1/operator/level`: close, force or open."""
    gateway = await call.authorise(OPERATE)
    lever = decode(LEVEL, await call.json_body(INTENT_BYTES_MAX))
    key = call.idempotency_key()
    ordered = _ordered(lever)
    who = _pull(gateway.gateway_id, lever, key)
    if ordered is None:
        return await _pulled(call, partial(levels.lift_level, pull=who))
    lasting = _lasting(lever)

    def order(connection: Connection) -> LevelChange:
        return levels.order_level(connection, ordered, lasting, who)

    return await _pulled(call, order)


async def post_issuance(call: Call) -> Reply:
    """`POST /v1/operator/campaigns/{campaign_id}/issuance`: pause or resume giving out coupons."""
    pausing, resuming = levers.pause_issuance, levers.resume_issuance
    return await _paused(call, "campaign_id", pausing, resuming)


async def post_merchant(call: Call) -> Reply:
    """`POST /v1/operator/merchants/{merchant_id}`: pause or resume selling a merchant's goods."""
    return await _paused(call, "merchant_id", levers.pause_merchant, levers.resume_merchant)


async def _paused(
    call: Call,
    named: str,
    pausing: Callable[[Connection, str, Until, Pull], Pause],
    resuming: Callable[[Connection, str, Pull], Pause],
) -> Reply:
    gateway = await call.authorise(OPERATE)
    lever = decode(PAUSE, await call.json_body(INTENT_BYTES_MAX))
    key = call.idempotency_key()
    if lever.action == "resume" and lever.for_s is not None:
        raise _wrong("for_s", "Expected none: what is resumed goes on")
    subject, who = call.parameter(named), _pull(gateway.gateway_id, lever, key)
    until = Until(after=_lasting(lever))

    def pull(connection: Connection) -> Pause:
        if lever.action == "pause":
            return pausing(connection, subject, until, who)
        return resuming(connection, subject, who)

    return await _pulled(call, pull)


def _ordered(lever: LevelLever) -> Level | None:
    """Return the level that is ordered, None where the order is lifted; raises Problem (400)."""
    match lever.action:
        case "force" if lever.level is None:
            raise _wrong("level", "Expected the level to force")
        case "force":
            return lever.level
        case _ if lever.level is not None:
            raise _wrong("level", f"Expected none: `{lever.action}` says it all")
        case "close":
            return Level.CLOSED
        case "open" if lever.for_s is not None:
            raise _wrong("for_s", "Expected none: an order that is lifted does not come back")
    return None


def _pull(gateway_id: str, lever: LevelLever | PauseLever, key: str) -> Pull:
    """Say who pulls; a dry run binds no key."""
    dry_run = lever.dry_run
    return Pull(
        actor=gateway_id,
        reason=lever.reason.strip(),
        dry_run=dry_run,
        key=None if dry_run else key,
    )


def _lasting(lever: LevelLever | PauseLever) -> timedelta | None:
    return None if lever.for_s is None else timedelta(seconds=lever.for_s)


async def _pulled(call: Call, pull: Callable[[Connection], LevelChange | Pause]) -> Reply:
    """Pull; raises Problem where there is nothing to pull, or its end is not known."""

    def refused_or_done(connection: Connection) -> LevelChange | Pause | LeverError:
        try:
            return pull(connection)
        except LeverError as refused:  # a value: to whoever runs jobs, what they raise is a fault
            return refused

    done = await call.api.desk.pull(refused_or_done)
    match done:
        case AbsentError():
            raise Problem(Code.NOT_FOUND, f"{done}.")
        case KeyBoundError():
            raise Problem(Code.IDEMPOTENCY_CONFLICT, f"{done}.")
        case LeverError():
            raise done
    headers = [JSON_HEADER, NO_STORE]
    if done.repeated:
        headers.append(_REPLAYED)
    return Reply(200, msgspec.json.encode(done), headers)


def _wrong(field: str, expected: str) -> Problem:
    return Problem(
        Code.INVALID_FIELD, f"{field}: {expected}.", errors=(FieldError(field, expected),)
    )
