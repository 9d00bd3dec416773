"""The intake: a batch of posted intents in, one answer each out.

    admitting.ask  ──▶  journal.append  ──▶  answers     then, off the reply path: publish
        └─ refused, or the key was known ──▶ look the keys up ──▶ replays
                                                 └─ unknown, and load refused it ──▶ admitting.book

Invariants:
- `Accepted` is said only after the journal's commit; what follows cannot take it back.
- Whatever the gate says, a key that the journal knows gets its intent's state: nobody is told no
  about an order that exists. One look-up per batch.
- "no" is said only where nothing can have been committed. An append whose reply was lost is repeated
  with the same ids: if the first did commit, its keys are found; if it is still under way, the
  repetition waits for it. Only if that fails too is the answer "unknown".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from uuid import UUID

import psycopg
import structlog
from msgspec import Struct

from config import failpoints
from producer import metering
from producer.admitting import Admitting, Asked
from producer.answers import (
    Accepted,
    Answer,
    Conflict,
    IssuancePaused,
    Limited,
    NotAccepted,
    Posted,
    Replayed,
    Unanswered,
)
from producer.limits import RulesUnread
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import Gate, GateUnreachable
from workers.contract.resource import IntentResource
from workers.domain.intent import IntentBody, IssuanceIntent
from workers.store import journal, resources
from workers.store.errors import Fault, fault_of
from workers.store.journal import BoundKey, Entry
from workers.store.pool import Connection

_log = structlog.get_logger()

Tell = Callable[[Sequence[tuple[Posted, Answer | None]], metering.Watch], None]

_NO_GATE = Unanswered("no", "valkey")
_NO_JOURNAL = Unanswered("no", "postgres")
_UNHEARD = Unanswered("unknown", "postgres")
# What leaves an intent without a place here: the window it may have shown is its holder's again.
_REFUSALS = (Limited, NotAccepted, IssuancePaused, Conflict)

RETRY_PAUSE_S = 0.05  # between attempts to reach a journal that may be restarting
UNRELEASED_MAX = 20_000  # ids kept for a gate that is away: its timeouts let few batches come
RELEASED_AT_ONCE_MAX = 5_000  # one call of the gate, about 4 ms: a batch waits for it


class _Pending(Struct):
    """A posted intent on its way through one batch."""

    posted: Posted
    digest: bytes  # of its key
    answer: Answer | None = None
    asked: Asked | None = None  # what the gate was asked, where it was


class Intake:
    """Submits batches; for one thread, with connections of its own.

    `accept_timeout_ms` bounds how long a batch may take, whatever is dead. `tell` is told of each
    batch, with its answers so far, before its hint is sent.
    """

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        gate: Gate,
        admitting: Admitting,
        publish: Callable[[Sequence[UUID]], None],
        codes: CouponCodes,
        *,
        accept_timeout_ms: int,
        dispatch_after_ms: int,
        tell: Tell | None = None,
    ) -> None:
        self._open = open_connection
        self._gate = gate
        self._admitting = admitting
        self._publish = publish
        self._codes = codes
        self._accept_timeout_s = accept_timeout_ms / 1000
        self._dispatch_after_ms = dispatch_after_ms
        self._tell = tell
        self._connection: Connection | None = None
        self._gate_answers = True
        self._unreleased: list[UUID] = []  # not journalled; the gate may count them as in flight

    def submit(self, batch: Sequence[Posted]) -> list[Answer]:
        """Answer a batch, in its order. Never raises for a dependency that is away."""
        deadline = time.monotonic() + self._accept_timeout_s
        watch = metering.Watch()
        pending = [_Pending(posted, _digest(posted)) for posted in batch]
        admitted = self._admit(pending)
        watch.lap("admit")
        if admitted:
            self._append(admitted, deadline)
            watch.lap("journal")
        # Whatever the look-up may say, or fail to say, of their keys: their own ids are not journalled.
        gone = {one.posted.intent_id for one in admitted if one.answer == _NO_JOURNAL}
        unanswered = [one for one in pending if not isinstance(one.answer, Accepted)]
        if unanswered:
            self._look_up(unanswered, deadline)
            watch.lap("look_up")
        gone.update(one.posted.intent_id for one in admitted if not _stands(one))
        self._release(gone)
        if self._tell is not None:
            self._tell([(one.posted, one.answer) for one in pending], watch)
        accepted = [one.posted.intent_id for one in admitted if isinstance(one.answer, Accepted)]
        if accepted:
            self._publish(accepted)
        self._book(pending)
        # Who shares a key with an earlier one of the batch, and was not found, shares its answer.
        of_key = {one.digest: one.answer for one in reversed(pending)}
        return [one.answer or of_key[one.digest] or _UNHEARD for one in pending]

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()

    def _entry(self, one: _Pending) -> Entry:
        """Make the journal's entry; only for what the gate admits, a refusal has no use for it."""
        posted, intent = one.posted, one.posted.intent
        return Entry(
            digest=one.digest,
            intent_id=posted.intent_id,
            fingerprint=journal.fingerprint(intent),
            kind=posted.kind,
            gateway_id=posted.gateway_id,
            idempotency_key=posted.idempotency_key,
            user_id=intent.user_id,
            campaign_id=intent.campaign_id,
            body=self._body(posted),
        )

    def _body(self, posted: Posted) -> IntentBody:
        intent = posted.intent
        if isinstance(intent, IssuanceIntent):
            return IntentBody(
                conversation_id=intent.conversation_id,
                locale=intent.locale,
                ttl_ms=intent.ttl_ms,
                traceparent=posted.traceparent,
                tracestate=posted.tracestate,
            )
        code = intent.coupon_code
        coupon_id = None if code is None else self._codes.coupon_id_of(code)
        return IntentBody(
            lines=intent.lines,
            coupon_id=coupon_id,
            coupon_forged=code is not None and coupon_id is None,
            conversation_id=intent.conversation_id,
            locale=intent.locale,
            ttl_ms=intent.ttl_ms,
            expected_total=intent.expected_total,
            traceparent=posted.traceparent,
            tracestate=posted.tracestate,
        )

    def _admit(self, pending: list[_Pending]) -> list[_Pending]:
        """Ask the gate for the first of each key; return the admitted."""
        firsts = list({one.digest: one for one in reversed(pending)}.values())[::-1]
        for one in firsts:
            one.asked = Asked(one.posted, one.digest)
        try:
            answers = self._admitting.ask([one.asked for one in firsts if one.asked is not None])
        except GateUnreachable as error:
            _log.warning("gate unreachable", error=error, intents=len(firsts))
            self._gate_answers = False
            # The gate may have admitted them, unheard.
            self._unreleased += [one.posted.intent_id for one in firsts]
            for one in firsts:
                one.answer = _NO_GATE
            return []
        except RulesUnread as error:
            _log.warning("rules unread", error=error, intents=len(firsts))
            for one in firsts:
                one.answer = _NO_JOURNAL
            return []
        self._gate_answers = True
        for one, answer in zip(firsts, answers, strict=True):
            one.answer = answer
        return [one for one in firsts if one.answer is None]

    def _book(self, pending: list[_Pending]) -> None:
        """Give those whom the journal does not know, and load refused, a place in time."""
        refused = [
            (one, one.asked, one.answer)
            for one in pending
            if one.asked is not None and isinstance(one.answer, _REFUSALS)
        ]
        if refused:
            answers = self._admitting.book([(asked, answer) for _, asked, answer in refused])
            for (one, _, _), answer in zip(refused, answers, strict=True):
                one.answer = answer

    def _append(self, admitted: list[_Pending], deadline: float, *, unheard: bool = False) -> None:
        """Journal the admitted; answer whom this call has accepted, or all when it gives up.

        `unheard` says that an earlier attempt may have committed, or may yet: then no later error
        makes a certain no of it.
        """
        entries = [self._entry(one) for one in admitted]
        while admitted:
            sent = False
            try:
                connection = self._live(deadline)
                failpoints.hit("journal.before_commit")
                sent = True
                times = journal.append_many(connection, entries, self._dispatch_after_ms)
                failpoints.hit("journal.after_commit")
                return _accept(admitted, times)
            except psycopg.Error as error:
                _log.warning("journal failed", error=error, intents=len(admitted))
                unheard |= sent and self._is_broken
                if not self._may_retry(error, deadline):
                    return self._give_up(admitted, error, deadline, unheard)
            time.sleep(RETRY_PAUSE_S)

    def _give_up(
        self, admitted: list[_Pending], error: psycopg.Error, deadline: float, unheard: bool
    ) -> None:
        """Find the one whose data is at fault, if it is that; else say how far nothing is known."""
        if fault_of(error) is Fault.OWN and len(admitted) > 1:
            for one in admitted:
                self._append([one], deadline, unheard=unheard)
            return
        for one in admitted:
            one.answer = _UNHEARD if unheard else _NO_JOURNAL

    def _look_up(self, unanswered: list[_Pending], deadline: float) -> None:
        """Answer from the journal what is known there; leave what is not as the gate left it."""
        try:
            keys, known = self._find(unanswered, deadline)
        except psycopg.Error as error:
            _log.warning("journal not asked", error=error, intents=len(unanswered))
            for one in unanswered:
                # The key may be bound: the journal could not say, so neither can we.
                one.answer = _UNHEARD
            return
        for one in unanswered if keys else ():
            bound = keys.get(one.digest)
            if bound is not None:
                one.answer = _answer_of(one.posted, bound, known)

    def _find(
        self, unanswered: list[_Pending], deadline: float
    ) -> tuple[dict[bytes, BoundKey], dict[UUID, IntentResource]]:
        """Read keys and what they are bound to; once more if the connection had died while idle."""
        digests = [one.digest for one in unanswered]
        for attempt in (1, 2):
            try:
                connection = self._live(deadline)
                keys = journal.find_keys(connection, digests)
                ids = [bound.intent_id for bound in keys.values()]
                return keys, resources.read_many(connection, ids) if ids else {}
            except psycopg.Error as error:
                if attempt == 2 or not self._may_retry(error, deadline):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _release(self, ids: Iterable[UUID]) -> None:
        """Give back the admission of what was not journalled under its own id, once the gate answers.

        A server that was paused may execute a lost question after its release: what that admits
        the reconciliation removes, when it is old enough.
        """
        self._unreleased += ids
        del self._unreleased[:-UNRELEASED_MAX]
        part = self._unreleased[:RELEASED_AT_ONCE_MAX]
        if not part or not self._gate_answers:
            return
        try:
            self._gate.release(part)
        except GateUnreachable as error:
            self._gate_answers = False
            _log.warning("admissions not released", error=error, intents=len(part))
        else:
            del self._unreleased[: len(part)]

    def _may_retry(self, error: psycopg.Error, deadline: float) -> bool:
        """Whether it is worth repeating: its connection broke, or others were in its way."""
        if time.monotonic() + RETRY_PAUSE_S >= deadline:
            return False
        return self._is_broken or fault_of(error) is Fault.CONTENTION

    @property
    def _is_broken(self) -> bool:
        return self._connection is None or self._connection.closed

    def _live(self, deadline: float) -> Connection:
        if self._connection is None or self._connection.closed:
            if time.monotonic() >= deadline:
                raise psycopg.OperationalError("no time left to connect")
            self._connection = self._open()
        return self._connection


def _digest(posted: Posted) -> bytes:
    return journal.key_digest(
        posted.gateway_id, posted.kind, posted.intent.user_id, posted.idempotency_key
    )


def _accept(admitted: list[_Pending], times: dict[UUID, datetime]) -> None:
    for one in admitted:
        at = times.get(one.posted.intent_id)
        if at is not None:
            one.answer = Accepted(one.posted.intent_id, at)


def _stands(one: _Pending) -> bool:
    """Whether an admitted intent is, or may be, in the journal under the id it was admitted with."""
    match one.answer:
        case Accepted():
            return True
        case Unanswered(accepted="unknown"):
            return True
        case _:
            return False


def _answer_of(posted: Posted, bound: BoundKey, known: dict[UUID, IntentResource]) -> Answer:
    resource = known.get(bound.intent_id)
    if bound.fingerprint != journal.fingerprint(posted.intent):
        return Conflict(bound.intent_id)
    if resource is None:  # pruned: its outcome was told long ago, and its key outlived it
        return _UNHEARD
    if bound.intent_id == posted.intent_id:  # our own commit, whose reply was lost
        return Accepted(posted.intent_id, resource.accepted_at)
    return Replayed(resource)
