"""Admitting a batch: from posted intents to the gate's question, and from its verdicts to answers.

    gather   rules in force, tickets shown, what each intent would take
    decide   the gate, in one call: `workers.contract.gate`
    answer   a refusal in the words of the intake's answers; then, for who is still refused after the
             journal was asked, a place in time

A ticket is only worth something where load refuses: an intent that shows one is first of all an
intent, with a key that may be known, limits of its caller, and goods that may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import structlog
from msgspec import Struct

from producer import metering
from producer.answers import Answer, IssuancePaused, Limited, NotAccepted, Posted
from producer.limits import Rules, Term
from workers.contract.admission import Candidate, Quota, Units, Verdict
from workers.contract.calendar import Calendar, Holder, Wish
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import Gate, GateUnreachable
from workers.contract.ids import uuid_of
from workers.contract.ticket import Tickets
from workers.domain.appointment import (
    Pace,
    Window,
    appointment,
    earns_appointment,
)
from workers.domain.intent import Line, OrderIntent
from workers.domain.odds import TAKEN_SHARE, odds
from workers.domain.overload import APPOINTMENT_SHARE, IntentClass, Level, Policy

_log = structlog.get_logger()

_MS: Final = timedelta(milliseconds=1)
_TERMS_MAX: Final = 1_024  # of campaigns
_OPEN_RETRY_MS: Final = 1_000  # where the window has begun, or begins sooner


class Asked(Struct):
    """A posted intent on its way through the gate. `key` is the digest of its idempotency key.

    `window` is the one its ticket proves, `keeps_place` whether it came in time to be served there.
    `lasts_until_ms` is when what it wants will be gone, as far as the gate can tell (Unix ms).
    """

    posted: Posted
    key: bytes
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
        barred: list[Answer | None] = [None] * len(asked)
        going = asked
        if rules.inactive or rules.issuance_pauses:
            barred = [self._barred(one.posted, rules) for one in asked]
            going = [one for one, answer in zip(asked, barred, strict=True) if answer is None]
        self._read_tickets([one for one in going if one.posted.appointment is not None])
        verdicts = self._gate.admit(self._candidates(going, rules), rules.limits)
        metering.count_verdicts([one.intent_class for one in going], verdicts)
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
        terms = self._rules().windows if pace is not None else {}
        wishes: dict[int, Wish] = {}
        back: list[Holder] = []
        for at, (one, answer) in enumerate(refused):
            if (
                pace is not None
                and isinstance(answer, Limited)
                and earns_appointment(answer.limit, answer.level, one.intent_class)
            ):
                wishes[at] = _wish(one, terms)
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

    def _candidates(self, asked: Sequence[Asked], rules: Rules) -> list[Candidate]:
        # Classes matter where load refuses; verifying every code in calm would be for nothing.
        by_class = self._level() is not Level.NORMAL or rules.limits.ordered is not None
        goods_of: dict[tuple[str, tuple[Line, ...]], _Goods] = {}  # many want the same
        candidates = []
        for one in asked:
            posted = one.posted
            intent = posted.intent
            if not isinstance(intent, OrderIntent):
                candidates.append(_issuance(one, rules))
                continue
            if by_class or one.keeps_place:
                one.intent_class = self._class(one, intent)
            wanted = (intent.campaign_id, intent.lines)
            goods = goods_of.get(wanted)
            if goods is None:
                goods = goods_of[wanted] = _goods(*wanted, rules)
            candidates.append(
                Candidate(
                    posted.intent_id,
                    posted.gateway_id,
                    intent.user_id,
                    intent.campaign_id,
                    intent.conversation_id,
                    goods.skus,
                    one.intent_class,
                    intent.ttl_ms,
                    goods.units,
                    goods.merchants,
                )
            )
        return candidates

    def _class(self, one: Asked, intent: OrderIntent) -> IntentClass:
        if one.keeps_place:
            return IntentClass.APPOINTMENT
        code = intent.coupon_code
        if code is not None and self._codes.proves(code):
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

    def _with_window(self, refused: tuple[Asked, Answer], window: Window, now_ms: int) -> Answer:
        """Tell of a window; `now_ms` is the gate's, by whose clock it opens."""
        one, answer = refused
        assert isinstance(answer, Limited)
        posted = one.posted
        intent = posted.intent
        ticket = self._tickets.sign(posted.gateway_id, intent.user_id, intent.campaign_id, window)
        wait_ms = max(_OPEN_RETRY_MS, window.starts_ms - now_ms)
        place = appointment(window, ticket)
        return Limited(answer.limit, wait_ms, answer.level, place, answer.quota)


class _Goods(NamedTuple):
    """What an order's lines are to the gate."""

    skus: tuple[str, ...]
    units: tuple[Units, ...]
    merchants: tuple[str, ...]


def _goods(campaign_id: str, lines: tuple[Line, ...], rules: Rules) -> _Goods:
    merchants: tuple[str, ...] = ()
    if rules.limits.merchants:
        found = [rules.items_merchant.get((campaign_id, line.sku)) for line in lines]
        merchants = tuple({name: None for name in found if name is not None})
    units = [Units(f"stock:{campaign_id}:{line.sku}", line.quantity) for line in lines]
    return _Goods(tuple([line.sku for line in lines]), tuple(units), merchants)


def _issuance(one: Asked, rules: Rules) -> Candidate:
    posted = one.posted
    intent, campaign_id = posted.intent, posted.intent.campaign_id
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


def _wish(one: Asked, terms: Mapping[str, Term]) -> Wish:
    """Wish for a window before the goods are gone and the campaign is over."""
    intent, until_ms = one.posted.intent, one.lasts_until_ms
    term = terms.get(intent.campaign_id)
    if term is not None:
        ends_ms = _ends_ms(term)
        until_ms = ends_ms if until_ms is None else min(until_ms, ends_ms)
    return Wish(
        one.posted.gateway_id, intent.user_id, intent.campaign_id, until_ms, one.keeps_place
    )


@lru_cache(_TERMS_MAX)
def _ends_ms(term: Term) -> int:
    return int(term.ends_at.timestamp() * 1_000)


def _holder(one: Asked) -> Holder:
    assert one.window is not None
    posted = one.posted
    return Holder(
        posted.gateway_id,
        posted.intent.user_id,
        posted.intent.campaign_id,
        one.window,
        uuid_of(one.key),
    )


def _answer(one: Asked, verdict: Verdict, rules: Rules, taken_share: float) -> Answer | None:
    """Say a verdict in the intake's words; None: admitted."""
    limit = verdict.limit
    one.lasts_until_ms = verdict.lasts_until_ms
    if limit is None:
        return None
    quota: Quota | None = None
    match limit:
        case "gateway":
            quota = verdict.gateway_quota
        case "user":
            quota = verdict.user_quota
        case "level" if (
            one.intent_class is IntentClass.ISSUANCE and verdict.level is not Level.CLOSED
        ):
            return _issuance_paused(verdict, rules)
        case "stock" | "budget" | "merchant":
            return _not_accepted(verdict, taken_share)
    return Limited(
        limit,
        verdict.retry_after_ms,
        verdict.level,
        quota=None if quota is None else quota.limit,
    )


def _not_accepted(verdict: Verdict, taken_share: float) -> NotAccepted:
    """Say that there is not enough of something, or that a kitchen takes no more."""
    match verdict.limit:
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
    again = None
    if verdict.retry_after_ms:
        again = datetime.now(UTC) + verdict.retry_after_ms * _MS
    return NotAccepted("merchant_unavailable", final=False, try_again_at=again)


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
