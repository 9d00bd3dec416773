"""Admitting a batch: from posted intents to the gate's question, and from its verdicts to answers.

    gather   rules in force, tickets shown, what each intent would take
    decide   the gate, in one call: `workers.contract.gate`
    answer   a refusal in the words of the intake's answers; then, for who is still refused after the
             journal was asked, a place in time

A ticket is only worth something where load refuses: an intent that shows one is first of all an
intent, with a key that may be known, limits of its caller, and goods that may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from producer import metering
from producer.answers import Answer, IssuancePaused, Limited, NotAccepted, Posted
from producer.limits import Rules
from workers.contract.admission import Candidate, Units, Verdict
from workers.contract.calendar import Calendar, Holder, Wish
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import Gate, GateUnreachable
from workers.contract.ticket import Tickets
from workers.domain.appointment import (
    Pace,
    Window,
    appointment,
    earns_appointment,
)
from workers.domain.intent import OrderIntent
from workers.domain.odds import TAKEN_SHARE, odds
from workers.domain.overload import APPOINTMENT_SHARE, IntentClass, Level, Policy

_log = structlog.get_logger()

_MS: Final = timedelta(milliseconds=1)
_OPEN_RETRY_MS: Final = 1_000  # where the window has begun, or begins sooner


class Asked(Struct):
    """A posted intent on its way through the gate. `key` is the digest of its idempotency key.

    `window` is the one its ticket proves, `keeps_place` whether it came in time to be served there.
    `lasts_until_ms` is when what it wants will be gone, as far as the gate can tell (Unix ms).
    """

    posted: Posted
    key: UUID
    window: Window | None = None
    keeps_place: bool = False
    intent_class: IntentClass = IntentClass.ORDER
    lasts_until_ms: int | None = None


class Admitting:
    """Asks gate and calendar for a batch; for one thread. `pace` is None while nobody is booked."""

    def __init__(
        self,
        gate: Gate,
        calendar: Calendar,
        tickets: Tickets,
        codes: CouponCodes,
        rules: Callable[[], Rules],
        level: Callable[[], Level],
        pace: Callable[[], Pace | None],
        taken_share: Callable[[], float] = lambda: TAKEN_SHARE,
    ) -> None:
        self._gate = gate
        self._calendar = calendar
        self._tickets = tickets
        self._codes = codes
        self._rules = rules
        self._level = level
        self._pace = pace
        self._taken_share = taken_share

    def ask(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """Return what is refused, in order; None: admitted. Raises `GateUnreachable`, `RulesUnread`."""
        rules = self._rules()
        rules_out = bool(rules.inactive or rules.issuance_pauses)
        barred = [self._barred(one.posted, rules) if rules_out else None for one in asked]
        going = [one for one, answer in zip(asked, barred, strict=True) if answer is None]
        self._read_tickets([one for one in going if one.posted.appointment is not None])
        # Classes matter where load refuses; verifying every code in calm would be for nothing.
        by_class = self._level() is not Level.NORMAL or rules.limits.ordered is not None
        verdicts = self._gate.admit(
            [self._candidate(one, rules, by_class=by_class) for one in going], rules.limits
        )
        metering.count_verdicts([one.intent_class for one in going], verdicts)
        for one, verdict in zip(going, verdicts, strict=True):
            one.lasts_until_ms = verdict.lasts_until_ms
        told, share = iter(verdicts), self._taken_share()
        return [
            _answer(one, next(told), rules, share) if answer is None else answer
            for one, answer in zip(asked, barred, strict=True)
        ]

    def book(self, refused: Sequence[tuple[Asked, Answer]]) -> list[Answer]:
        """Give those whom load refused a place in time, where there is one; return all answers.

        Windows of holders who have no new one instead are theirs to use again.
        """
        answers = [answer for _, answer in refused]
        pace = self._pace()
        wishes: dict[int, Wish] = {}
        back: list[Holder] = []
        for at, (one, answer) in enumerate(refused):
            if pace is not None and isinstance(answer, Limited) and _earns(one, answer):
                wishes[at] = self._wish(one)
            elif one.keeps_place:
                back.append(_holder(one))
        try:
            self._calendar.give_back(back)
            if wishes and pace is not None:
                booked = self._calendar.book(list(wishes.values()), pace)
                placed = dict(zip(wishes, booked.windows, strict=True))
                given = sum(window is not None for window in booked.windows)
                metering.count_windows(given=given)
                for at, window in placed.items():
                    if window is not None:
                        answers[at] = self._with_window(refused[at], window, booked.now_ms)
                without = [refused[at][0] for at, window in placed.items() if window is None]
                self._calendar.give_back([_holder(one) for one in without if one.keeps_place])
        except GateUnreachable as error:
            _log.warning("no appointments", error=error, wishes=len(wishes))
        return answers

    def _read_tickets(self, holders: Sequence[Asked]) -> None:
        """Take the windows of who comes in time; who cannot be looked up comes without one."""
        proven = []
        for one in holders:
            posted = one.posted
            one.window = self._tickets.read(
                posted.appointment or "",
                posted.gateway_id,
                posted.intent.user_id,
                posted.intent.campaign_id,
            )
            if one.window is not None and isinstance(posted.intent, OrderIntent):
                proven.append(one)
        if not proven:
            return
        try:
            arrivals = self._calendar.use([_holder(one) for one in proven])
        except GateUnreachable as error:
            _log.warning("no windows looked up", error=error, holders=len(proven))
            return
        for one, arrival in zip(proven, arrivals, strict=True):
            one.keeps_place = arrival.keeps_place
        kept = sum(one.keeps_place for one in proven)
        metering.count_windows(kept=kept, missed=len(proven) - kept)

    def _candidate(self, one: Asked, rules: Rules, *, by_class: bool) -> Candidate:
        posted = one.posted
        intent, campaign_id = posted.intent, posted.intent.campaign_id
        if not isinstance(intent, OrderIntent):
            one.intent_class = IntentClass.ISSUANCE
            value = rules.coupon_values.get(campaign_id)
            return Candidate(
                intent_id=posted.intent_id,
                gateway_id=posted.gateway_id,
                user_id=intent.user_id,
                campaign_id=campaign_id,
                conversation_id=intent.conversation_id,
                skus=(),
                intent_class=IntentClass.ISSUANCE,
                ttl_ms=intent.ttl_ms,
                units=() if value is None else (Units(f"budget:{campaign_id}", value),),
            )
        if by_class or one.keeps_place:
            one.intent_class = self._class(one, intent)
        merchants: tuple[str, ...] = ()
        if rules.limits.merchants:
            found = [rules.items_merchant.get((campaign_id, line.sku)) for line in intent.lines]
            merchants = tuple({name: None for name in found if name is not None})
        head = f"stock:{campaign_id}:"
        return Candidate(
            posted.intent_id,
            posted.gateway_id,
            intent.user_id,
            campaign_id,
            intent.conversation_id,
            tuple([line.sku for line in intent.lines]),
            one.intent_class,
            intent.ttl_ms,
            tuple([Units(head + line.sku, line.quantity) for line in intent.lines]),
            merchants,
        )

    def _class(self, one: Asked, intent: OrderIntent) -> IntentClass:
        if one.keeps_place:
            return IntentClass.APPOINTMENT
        code = intent.coupon_code
        if code is not None and self._codes.coupon_id_of(code) is not None:
            return IntentClass.REDEMPTION
        return IntentClass.ORDER

    def _barred(self, posted: Posted, rules: Rules) -> Answer | None:
        """Return what no gate need be asked for; a campaign that is not active comes first."""
        campaign_id = posted.intent.campaign_id
        if campaign_id in rules.inactive:
            starts_at = rules.inactive[campaign_id]
            return NotAccepted("campaign_not_active", starts_at is None, try_again_at=starts_at)
        if isinstance(posted.intent, OrderIntent) or campaign_id not in rules.issuance_pauses:
            return None
        return IssuancePaused(rules.issuance_pauses[campaign_id], self._level(), "operator")

    def _wish(self, one: Asked) -> Wish:
        posted = one.posted
        campaign_id = posted.intent.campaign_id
        term = self._rules().windows.get(campaign_id)
        ends_ms = [] if one.lasts_until_ms is None else [one.lasts_until_ms]
        if term is not None:
            ends_ms.append(int(term.ends_at.timestamp() * 1_000))
        return Wish(
            gateway_id=posted.gateway_id,
            user_id=posted.intent.user_id,
            campaign_id=campaign_id,
            until_ms=min(ends_ms, default=None),
            was_turned_away=one.keeps_place,
        )

    def _with_window(self, refused: tuple[Asked, Answer], window: Window, now_ms: int) -> Answer:
        """Tell of a window; `now_ms` is the gate's, by whose clock it opens."""
        one, answer = refused
        assert isinstance(answer, Limited)
        posted = one.posted
        ticket = self._tickets.sign(
            posted.gateway_id, posted.intent.user_id, posted.intent.campaign_id, window
        )
        wait_ms = max(_OPEN_RETRY_MS, window.starts_ms - now_ms)
        place = appointment(window, ticket)
        return Limited(answer.limit, wait_ms, answer.level, place, answer.quota)


def _earns(one: Asked, answer: Limited) -> bool:
    return earns_appointment(answer.limit, answer.level, one.intent_class)


def _holder(one: Asked) -> Holder:
    assert one.window is not None
    posted = one.posted
    return Holder(
        posted.gateway_id, posted.intent.user_id, posted.intent.campaign_id, one.window, one.key
    )


def _answer(one: Asked, verdict: Verdict, rules: Rules, taken_share: float) -> Answer | None:
    """Say a verdict in the intake's words; None: admitted."""
    limit = verdict.limit
    if limit is None:
        return None
    match limit:
        case "stock" if verdict.final:
            return NotAccepted("sold_out", final=True)
        case "stock":
            chance = odds(verdict.ahead, verdict.left, verdict.wanted, taken_share)
            return NotAccepted("likely_sold_out", final=False, odds=chance)
        case "budget" if verdict.final:
            return NotAccepted("budget_exhausted", final=True)
        case "budget":
            value = verdict.wanted  # a budget is taken coupon by coupon
            chance = odds(verdict.ahead // value, verdict.left // value, 1, taken_share)
            return NotAccepted("budget_exhausted", final=False, odds=chance)
        case "merchant":
            again = None
            if verdict.retry_after_ms:
                again = datetime.now(UTC) + verdict.retry_after_ms * _MS
            return NotAccepted("merchant_unavailable", final=False, try_again_at=again)
        case "level" if (
            one.intent_class is IntentClass.ISSUANCE and verdict.level is not Level.CLOSED
        ):
            return _issuance_paused(verdict, rules)
    quota = {"gateway": verdict.gateway_quota, "user": verdict.user_quota}.get(limit)
    return Limited(
        limit,
        verdict.retry_after_ms,
        verdict.level,
        quota=None if quota is None else quota.limit,
    )


def _issuance_paused(verdict: Verdict, rules: Rules) -> IssuancePaused:
    ordered = rules.limits.ordered
    if ordered is None:
        return IssuancePaused(None, verdict.level, "load")
    resume_at = None
    if ordered.until_ms is not None:
        resume_at = datetime.fromtimestamp(ordered.until_ms / 1_000, UTC)
    return IssuancePaused(resume_at, verdict.level, "operator")


def pace_of(policy: Policy | None) -> Pace | None:
    """Return how fast windows may be handed out under a policy; None: it bounds no rate.

    Windows lie in a time when the queue that bounds admission now is served; so the pace is of what
    is served a second: the part of it that the class is sure of, so that windows come true.
    """
    if policy is None or policy.admitted_per_s is None:
        return None
    return Pace(
        per_s=(policy.service_per_s or policy.admitted_per_s) * APPOINTMENT_SHARE,
        lead_ms=policy.predicted_wait_ms,
    )
