"""What the SDK decides: flows that say what to send and how long to pause, and never do either.

A flow is a generator. It yields a `Request` and is sent a `Reply` or `Lost`; it yields a `Pause` and
is sent whether to go on (False: the client is being closed, so patience is over). What it returns is
the call's result. `sync` and `aio` run flows; the rules are here once, and are tested in virtual time.

One wish, one key: whatever is lost on the way, the same body is sent under the same key, so it
becomes one order at most. The way of a wish:

    first send ── throttle ──▶ answer ─┬─ outcome, business no ──────────────────▶ told
                     │                 ├─ receipt ─ poll until patience ends ────▶ outcome or Accepted
                  TurnedAway           ├─ no, come back ─ patience? token? ─ wait ─▶ send again
                 (limit client)        │                    └─ else TurnedAway
                                       └─ doubt ─ patience? ─ wait for a token ──▶ send again
                                                    └─ else Unknown
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from producer.client import replies, requests, texts
from producer.client.faults import GatewayFault
from producer.client.flow import RETRY_S, Flow, Shared, pause
from producer.client.model import (
    Accepted,
    Cancelled,
    IntentResult,
    IssuanceFields,
    KeyedOrderFields,
    Kind,
    NotAccepted,
    NotDone,
    Order,
    OrderFields,
    Paid,
    Status,
    SubmitResult,
    Unconfirmed,
    Unreadable,
    UserCoupon,
    Wish,
)
from producer.client.replies import Doubt, No, Reply
from producer.client.requests import Request
from producer.client.submission import Submission, chunks, submit_chunk

T = TypeVar("T")

_NOT_DONE: Final = {  # and whether the money goes back
    "payment_too_late": True,
    "recorded_for_refund": True,
    "amount_wrong": False,
    "not_cancellable": False,
}


class Core(Shared):
    """The calls of a client, as flows."""

    def order(
        self, key: str | None, patience_s: float | None, order: OrderFields
    ) -> Flow[SubmitResult]:
        """Send a wish to buy."""
        return self.submit(requests.wish("order", idempotency_key=key, **order), patience_s)

    def issue(
        self, key: str | None, patience_s: float | None, issuance: IssuanceFields
    ) -> Flow[SubmitResult]:
        """Send a wish for a coupon."""
        return self.submit(requests.wish("issuance", idempotency_key=key, **issuance), patience_s)

    def order_many(
        self, orders: Iterable[KeyedOrderFields], patience_s: float | None
    ) -> Flow[list[SubmitResult | GatewayFault]]:
        """Send many wishes to buy."""
        return self.submit_many([requests.wish("order", **order) for order in orders], patience_s)

    def submit(self, wish: Wish, patience_s: float | None = None) -> Flow[SubmitResult]:
        """Send a wish, or send one again that was turned away or is in doubt."""
        return Submission(self, wish, self.ends(patience_s)).run()

    def submit_many(
        self, wishes: Sequence[Wish], patience_s: float | None = None
    ) -> Flow[list[SubmitResult | GatewayFault]]:
        """Send many wishes to buy, 500 at a time; return what came of each, in order.

        Nobody waits for outcomes or turns: what is accepted can be followed, what is turned away
        resumed. Only what is in doubt is asked for again. What was not sent when the client is being
        closed is turned away by the client itself.
        """
        ends = self.ends(patience_s)
        results: list[SubmitResult | GatewayFault] = []
        for chunk in chunks(wishes):
            if not results or (yield from pause(0.0)):
                results += yield from submit_chunk(self, chunk, ends)
            else:
                results += [Submission(self, wish, ends).held_back() for wish in chunk]
        return results

    def follow(
        self, accepted: Accepted | UUID, patience_s: float | None = None
    ) -> Flow[IntentResult]:
        """Wait for an outcome; return the receipt again where patience ends first.

        Raises NotFound for an intent that is not this gateway's.
        """
        if isinstance(accepted, UUID):
            accepted = Accepted(message=texts.accepted("order", None), intent_id=accepted)
        return (yield from self.poll(accepted, self.ends(patience_s), at_once=True))

    def find(
        self,
        user_id: str,
        idempotency_key: str,
        kind: Kind = "order",
        patience_s: float | None = None,
    ) -> Flow[IntentResult | Unreadable | None]:
        """Ask what a key is bound to; None: to nothing."""
        request = requests.get(
            "/v1/intents",
            self.options.timeout_s,
            user_id=user_id,
            idempotency_key=idempotency_key,
            kind=kind,
        )
        wish = Wish(kind=kind, body="", locale=None, idempotency_key=idempotency_key)
        reply = yield from self._ask(request, patience_s)
        if isinstance(reply, Unreadable):
            return reply
        if reply.status == 404:
            return None
        match replies.read(reply, wish, replies.utc(self.wall())):
            case GatewayFault() as fault:
                raise fault
            case No() | Doubt() | NotAccepted():
                return _unreadable(RETRY_S)
            case found:
                return found

    def coupons(
        self, user_id: str, patience_s: float | None = None
    ) -> Flow[tuple[UserCoupon, ...] | Unreadable]:
        """Ask for a user's coupons, the newest first."""
        request = requests.get(requests.user_path(user_id), self.options.timeout_s)
        found = yield from self._read(request, _coupons, patience_s)
        return found if isinstance(found, Unreadable) else found.coupons

    def status(self, patience_s: float | None = None) -> Flow[Status | Unreadable]:
        """Ask how it goes."""
        return self._read(requests.get("/v1/status", self.options.timeout_s), _status, patience_s)

    def pay(
        self, order_id: UUID, reference: str, amount: int, patience_s: float | None = None
    ) -> Flow[Paid | NotDone | Unconfirmed]:
        """Report a payment, as often as needed: the reference makes it count once."""
        body = {"payment_reference": reference, "amount": amount}
        done = yield from self._change(f"/v1/orders/{order_id}/payment", body, patience_s)
        if isinstance(done, NotDone | Unconfirmed):
            return done
        return Paid(order=done[0], message=done[1])

    def cancel(
        self, order_id: UUID, patience_s: float | None = None
    ) -> Flow[Cancelled | NotDone | Unconfirmed]:
        """Cancel an order, as often as needed: it takes effect once."""
        done = yield from self._change(f"/v1/orders/{order_id}/cancel", {}, patience_s)
        if isinstance(done, NotDone | Unconfirmed):
            return done
        return Cancelled(order=done[0], message=done[1])

    def _ask(self, request: Request, patience_s: float | None) -> Flow[Reply | Unreadable]:
        """Ask until there is an answer; raises GatewayFault, but for 404."""
        reply = yield from self.insist(request, self.ends(patience_s))
        if not isinstance(reply, Reply):
            return _unreadable(reply)
        if reply.status not in (200, 404):
            raise replies.fault_of(reply)
        return reply

    def _read(
        self, request: Request, decoder: msgspec.json.Decoder[T], patience_s: float | None
    ) -> Flow[T | Unreadable]:
        reply = yield from self._ask(request, patience_s)
        if isinstance(reply, Unreadable):
            return reply
        if reply.status == 404:
            raise replies.fault_of(reply)
        read = replies.decoded(decoder, reply.body)
        return _unreadable(RETRY_S) if read is None else read

    def _change(
        self, path: str, body: object, patience_s: float | None
    ) -> Flow[tuple[Order, str] | NotDone | Unconfirmed]:
        request = requests.change(path, body, self.options.timeout_s)
        reply = yield from self.insist(request, self.ends(patience_s))
        if not isinstance(reply, Reply):
            return _unconfirmed(reply)
        if reply.status == 200:
            return replies.order_of(reply) or _unconfirmed(RETRY_S)
        problem = replies.problem_of(reply)
        if problem.code not in _NOT_DONE:
            raise replies.fault_of(reply)
        return NotDone(message=problem.message, reason=problem.code, refund=_NOT_DONE[problem.code])


class _Coupons(Struct):
    coupons: tuple[UserCoupon, ...]


_coupons = msgspec.json.Decoder(_Coupons)
_status = msgspec.json.Decoder(Status)


def _unreadable(retry_after_s: float) -> Unreadable:
    message = texts.problem("reading_unavailable", None, retry_after_s)
    return Unreadable(message=message, retry_after_s=retry_after_s)


def _unconfirmed(retry_after_s: float) -> Unconfirmed:
    message = texts.problem("change_unconfirmed", None, retry_after_s)
    return Unconfirmed(message=message, retry_after_s=retry_after_s)
