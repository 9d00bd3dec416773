"""One wish on its way: sent, waited for, sent again, told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec.structs import replace

from producer.client import replies, requests, texts
from producer.client.faults import GatewayFault
from producer.client.flow import RETRY_S, Flow, Shared, pause
from producer.client.model import (
    Accepted,
    IntentResult,
    NotAccepted,
    SubmitResult,
    TurnedAway,
    Unknown,
    WaitNotice,
    Wish,
)
from producer.client.pacing import backoff_s, later_s, within_s
from producer.client.replies import Doubt, No

# A lost call may still be on its way into the journal (the API gives itself 5 s): for as long, a no
# to the next one is not believed.
_SETTLED_S: Final = 10.0
_WAIT_S_MAX: Final = 30  # the longest `Prefer: wait` that the API honours

Reason = Literal["turned_away", "appointment", "unknown"]


class Submission:
    """One wish, under one key, until `ends` of its call's patience."""

    def __init__(self, shared: Shared, wish: Wish, ends: float) -> None:
        self.shared = shared
        self.wish = wish
        self.ends = ends

    def run(self) -> Flow[SubmitResult]:
        """Send it, and again where that helps; raises GatewayFault."""
        shared, kind = self.shared, self.wish.kind
        early = yield from self._wait_until_told()
        if early is not None:
            return early
        # Who comes by appointment has capacity set aside: neither rule is meant for them.
        if self.wish.ticket is None and not shared.admits(kind):
            return self.held_back()
        shared.budget.deposit(shared.now())
        attempt = 1
        while True:
            wait_s = int(min(_WAIT_S_MAX, max(0.0, self.ends - shared.now())))
            request = requests.post(self.wish, wait_s, shared.options.timeout_s)
            heard = yield from shared.post(kind, request)
            result = self.judged(replies.read(heard, self.wish, replies.utc(shared.wall())))
            match result:
                case GatewayFault():
                    raise result
                case Accepted():
                    return (yield from self._followed(result))
                case Doubt():
                    if not (yield from self._wait_in_doubt(result, attempt)):
                        return self.unknown(result)
                case No():
                    told = self.turned_away(result)
                    if not (yield from self._wait_for_turn(result, attempt)):
                        return told
                    self.wish = replace(told.wish, key_told=self.wish.key_told)
                case _:
                    return result
            attempt += 1

    def judged(
        self, verdict: replies.Verdict
    ) -> IntentResult | NotAccepted | No | Doubt | GatewayFault:
        """Take note of a doubt; only the API's word for the key ends it, and not at once."""
        wall, lost_at = self.shared.wall(), self.wish.doubt_since
        if isinstance(verdict, GatewayFault):
            verdict.idempotency_key = self.wish.idempotency_key
        if isinstance(verdict, Doubt):
            self.wish = replace(self.wish, doubt_since=replies.utc(wall))
        if lost_at is None or not isinstance(verdict, No | NotAccepted):
            return verdict
        left_s = max(0.0, _SETTLED_S - (wall - lost_at.timestamp()))
        looked_up = isinstance(verdict, NotAccepted) or verdict.looked_up
        if looked_up and not left_s:
            self.wish = replace(self.wish, doubt_since=None)
            return verdict
        told_s = (verdict.told_s or 0.0) if isinstance(verdict, No) else 0.0
        wait_s = max(told_s, left_s if looked_up else 0.0)
        return Doubt(wait_s, detail="a no that does not end an earlier doubt")

    def turned_away(self, no: No) -> TurnedAway:
        """Make the result that tells a no, with the wish as it is to be resumed."""
        wait_s = RETRY_S if no.limit == "connection" else no.told_s
        wish = replace(
            self.wish,
            key_told=True,
            ticket=None if no.appointment is None else no.appointment.ticket,
            window_s=no.window_s,
            not_before=None if wait_s is None else replies.utc(self.shared.wall() + wait_s),
        )
        return TurnedAway(
            message=no.message or _turned_away(wish.locale, wait_s),
            idempotency_key=wish.idempotency_key,
            limit=no.limit,
            wish=wish,
            level=no.level,
            retry_after_s=wait_s,
            appointment=no.appointment,
            code=no.code,
            detail=no.detail,
        )

    def unknown(self, doubt: Doubt) -> Unknown:
        """Make the result that tells a doubt."""
        wait_s = max(doubt.told_s, RETRY_S)
        at = replies.utc(self.shared.wall() + wait_s)
        return Unknown(
            message=doubt.message or texts.problem("outcome_unknown", self.wish.locale, wait_s),
            idempotency_key=self.wish.idempotency_key,
            wish=replace(self.wish, key_told=True, not_before=at),
            retry_after_s=wait_s,
            detail=doubt.detail,
        )

    def held_back(self) -> SubmitResult:
        """Make the result of a wish that this client does not send."""
        wait_s = later_s(RETRY_S, self.shared.draw())
        if self.wish.doubt_since is not None:
            return self.unknown(Doubt(wait_s, detail="held back"))
        return self.turned_away(No(limit="client", told_s=wait_s, code="held_back"))

    def _wait_until_told(self) -> Flow[SubmitResult | None]:
        """Wait till a resumed wish may be sent; return its result where that is beyond patience."""
        shared, wish = self.shared, self.wish
        told_s = 0.0 if wish.not_before is None else wish.not_before.timestamp() - shared.wall()
        if told_s <= 0:
            return None
        wait_s = self._spread_s(told_s, wish.ticket, wish.window_s)
        if shared.now() + wait_s < self.ends:
            reason: Reason = "turned_away" if wish.ticket is None else "appointment"
            if (yield from pause(wait_s, self._notice(wait_s, reason))):
                return None
        if wish.doubt_since is not None:
            return self.unknown(Doubt(told_s, detail="resumed too early"))
        early = self.turned_away(No(limit="client", told_s=told_s, code="too_early"))
        return replace(early, wish=wish)

    def _wait_in_doubt(self, doubt: Doubt, attempt: int) -> Flow[bool]:
        """Wait to ask again with the same key; False: not within this call's patience."""
        return self.shared.token(
            attempt, doubt.told_s, self.ends, lambda wait_s: self._notice(wait_s, "unknown")
        )

    def _wait_for_turn(self, no: No, attempt: int) -> Flow[bool]:
        """Wait to send again; False: not within this call's patience, or repeats are too many."""
        shared = self.shared
        if no.told_s is None and no.limit != "connection":
            return False  # nobody knows for how long: no use to wait beside it
        ticket = None if no.appointment is None else no.appointment.ticket
        told_s = self._spread_s(no.told_s or 0.0, ticket, no.window_s)
        wait_s = max(told_s, backoff_s(attempt, shared.draw()))
        if shared.now() + wait_s >= self.ends:
            return False
        invited = ticket is not None and ticket != self.wish.ticket
        if not invited and not shared.budget.withdraw(shared.now(), in_doubt=False):
            return False
        reason: Reason = "turned_away" if ticket is None else "appointment"
        return (yield from pause(wait_s, self._notice(wait_s, reason, no)))

    def _followed(self, receipt: Accepted) -> Flow[IntentResult]:
        """Wait for the outcome. With a receipt in hand nothing is raised: a key may lack the scope."""
        try:
            return (yield from self.shared.poll(receipt, self.ends, at_once=False))
        except GatewayFault:
            return receipt

    def _spread_s(self, told_s: float, ticket: str | None, window_s: float) -> float:
        drawn = self.shared.draw()
        return later_s(told_s, drawn) if ticket is None else told_s + within_s(window_s, drawn)

    def _notice(self, wait_s: float, reason: Reason, no: No | None = None) -> WaitNotice:
        return WaitNotice(
            message=texts.problem("outcome_unknown", self.wish.locale, wait_s)
            if reason == "unknown"
            else texts.waiting(reason, self.wish.locale, wait_s),
            reason=reason,
            until=replies.utc(self.shared.wall() + wait_s),
            wait_s=wait_s,
            idempotency_key=self.wish.idempotency_key,
            level=None if no is None else no.level,
            limit=None if no is None else no.limit,
        )


def _turned_away(locale: str | None, wait_s: float | None) -> str:
    if wait_s is None:
        return texts.closed(locale)
    return texts.problem("reduced_capacity", locale, wait_s)


def submit_chunk(
    shared: Shared, wishes: Sequence[Wish], ends: float
) -> Flow[list[SubmitResult | GatewayFault]]:
    """Send one batch of wishes to buy; send what is in doubt of it again, in batches of its own."""
    submissions = [Submission(shared, wish, ends) for wish in wishes]
    if not shared.admits("order"):
        return [submission.held_back() for submission in submissions]
    shared.budget.deposit(shared.now())
    results: dict[int, SubmitResult | GatewayFault] = {}
    left = list(range(len(wishes)))
    attempt = 1
    while True:
        sent = [submissions[at].wish for at in left]
        heard = yield from shared.post("order", requests.post_many(sent, shared.options.timeout_s))
        verdicts = replies.read_many(heard, sent, replies.utc(shared.wall()))
        for at, verdict in zip(left, verdicts, strict=True):
            results[at] = _told(submissions[at], verdict)
        in_doubt = {at: told for at, told in results.items() if isinstance(told, Unknown)}
        left = list(in_doubt)
        wait_s = max((told.retry_after_s for told in in_doubt.values()), default=0.0)
        if not left or not (yield from shared.token(attempt, wait_s, ends)):
            return [results[at] for at in range(len(wishes))]
        attempt += 1


def chunks(wishes: Sequence[Wish]) -> Iterator[list[Wish]]:
    """Part wishes into batches that the API takes: by number, and by bytes."""
    chunk: list[Wish] = []
    size = 0
    for wish in wishes:
        length = len(requests.keyed_body(wish)) + 1
        if chunk and (len(chunk) == requests.BATCH_MAX or size + length > requests.BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(wish)
        size += length
    if chunk:
        yield chunk


def _told(submission: Submission, verdict: replies.Verdict) -> SubmitResult | GatewayFault:
    match submission.judged(verdict):
        case Doubt() as doubt:
            return submission.unknown(doubt)
        case No() as no:
            return submission.turned_away(no)
        case result:
            return result
