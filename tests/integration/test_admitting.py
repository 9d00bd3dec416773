"""Admitting a batch: who is of which class, what each verdict is told as, and without a calendar."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest
import redis
from kit import CODES, issuance, order
from msgspec.structs import replace

from producer import admitting
from producer.admitting import Admitting, Asked, pace_of
from producer.answers import Answer, IssuancePaused, Limited, NotAccepted, Posted
from producer.limits import Rules, Term
from tests.factories import GATEWAY, MASTER, open_gate
from workers.contract.admission import Balance, CampaignLimits, Limits, RateLimit
from workers.contract.calendar import Calendar
from workers.contract.gate import Gate, open_client
from workers.contract.ids import uuid7
from workers.contract.ticket import Tickets
from workers.domain.appointment import Block, Pace, Window
from workers.domain.odds import odds
from workers.domain.overload import APPOINTMENT_SHARE, IntentClass, Level, Policy

TICKETS = Tickets(MASTER)
ONE = RateLimit(0.001, 1)  # one now, the next in 1,000 seconds
PACE = Pace(per_s=10, lead_ms=60_000)
NOWHERE = "redis://127.0.0.1:1/0"
IN_AN_HOUR = datetime(2100, 1, 1, tzinfo=UTC)
CODE = CODES.code_of(uuid7())
SHEDDING = Limits(ordered=Policy(level=Level.SHEDDING, admitted_per_s=0.02))


def _admitting(
    url: str,
    rules: Rules = Rules(),  # noqa: B008
    *,
    gate: Gate | None = None,
    level: Level = Level.SHEDDING,
    pace: Pace | None = PACE,
    calendar_url: str = "",
) -> Admitting:
    calendar = Calendar(open_client(calendar_url or url, timeout_ms=1_000), "tidegate:")
    return Admitting(
        gate or open_gate(url), calendar, TICKETS, CODES, lambda: rules, lambda: level, lambda: pace
    )


def _asked(posted: Posted) -> Asked:
    return Asked(posted, uuid7().bytes)


def _answers(asking: Admitting, *posted: Posted) -> list[Answer | None]:
    """Ask for one after the other."""
    return [asking.ask([_asked(one)])[0] for one in posted]


def _now_ms(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        seconds, microseconds = client.time()
        return int(seconds) * 1_000 + int(microseconds) // 1_000


def _calendar(url: str) -> Calendar:
    """The gate's calendar, whose slots may be handed out for an hour."""
    calendar = Calendar(open_client(url, timeout_ms=2_000), "tidegate:")
    calendar.extend({GATEWAY: Block(None, 0, calendar.begin().now_ms + 3_600_000)})
    return calendar


def _holder(url: str, user: str = "u-1", **more: Any) -> Posted:
    """An order with the ticket of a window that is open."""
    now_ms = _now_ms(url)
    window = Window(now_ms, now_ms + 60_000)
    ticket = TICKETS.sign(GATEWAY, user, "spring", window)
    return replace(order(user, **more), appointment=ticket)


def _refused(one: Asked, asking: Admitting) -> tuple[Asked, Answer]:
    (answer,) = asking.ask([one])
    assert answer is not None
    return one, answer


# Classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("posted", "expected"),
    [
        (order(), IntentClass.ORDER),
        (order(coupon_code=CODE), IntentClass.REDEMPTION),
        (order(coupon_code="no code of ours"), IntentClass.ORDER),
        (issuance(), IntentClass.ISSUANCE),
    ],
)
def test_an_intent_is_of_the_class_that_it_can_prove(
    valkey_url: str, posted: Posted, expected: IntentClass
) -> None:
    """A coupon counts where its code verifies, without asking the database."""
    one = _asked(posted)
    _admitting(valkey_url).ask([one])
    assert one.intent_class is expected


def test_in_calm_no_code_is_verified_and_under_an_order_of_the_operators_each_is(
    valkey_url: str,
) -> None:
    """A class is worth something where load refuses, and whoever ordered a level says that it may."""
    calm, ordered = _asked(order(coupon_code=CODE)), _asked(order(coupon_code=CODE))
    _admitting(valkey_url, level=Level.NORMAL).ask([calm])
    rules = Rules(limits=Limits(ordered=Policy(level=Level.NORMAL)))
    _admitting(valkey_url, rules, level=Level.NORMAL).ask([ordered])
    assert (calm.intent_class, ordered.intent_class) == (IntentClass.ORDER, IntentClass.REDEMPTION)


def test_a_holder_in_its_window_is_of_its_class_at_every_level(valkey_url: str) -> None:
    """Whatever coupon it brings; a wish for a coupon has no use for a ticket."""
    for level in (Level.NORMAL, Level.SHEDDING):
        one = _asked(_holder(valkey_url, level.value, coupon_code=CODE))
        _admitting(valkey_url, level=level).ask([one])
        assert (one.keeps_place, one.intent_class) == (True, IntentClass.APPOINTMENT)
    ticket = _holder(valkey_url).appointment
    wish = _asked(replace(issuance(), appointment=ticket))
    _admitting(valkey_url).ask([wish])
    assert (wish.keeps_place, wish.intent_class) == (False, IntentClass.ISSUANCE)


# Without a calendar ------------------------------------------------------------------------------


def test_without_a_calendar_a_holder_is_as_any_other(valkey_url: str) -> None:
    """Its batch goes on: nobody is refused because a window cannot be looked up."""
    asking = _admitting(valkey_url, calendar_url=NOWHERE)
    batch = [
        _asked(one)
        for one in (order(), _holder(valkey_url, coupon_code=CODE), _holder(valkey_url), issuance())
    ]
    assert asking.ask(batch) == [None] * 4
    assert not any(one.keeps_place for one in batch)
    assert [one.intent_class for one in batch] == [
        *(IntentClass.ORDER, IntentClass.REDEMPTION, IntentClass.ORDER, IntentClass.ISSUANCE)
    ]


def test_without_a_calendar_a_refusal_is_told_as_the_gate_left_it(valkey_url: str) -> None:
    """When to ask again is known; a place is not."""
    asking = _admitting(valkey_url, Rules(limits=SHEDDING), calendar_url=NOWHERE)
    assert _answers(asking, order()) == [None]
    refused = _refused(_asked(_holder(valkey_url)), asking)
    assert isinstance(refused[1], Limited)
    assert asking.book([refused]) == [refused[1]]


# Windows -----------------------------------------------------------------------------------------


@pytest.fixture(params=[-2, 0, 2])
def skewed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's wall clock goes so many hours wrong."""

    class _Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(hours=request.param)

    monkeypatch.setattr(admitting, "datetime", _Skewed)


def _booked(url: str, ends_in: timedelta, pace: Pace = PACE) -> tuple[Limited, int]:
    """What a refused order is told in a campaign that ends so soon, by the gate's time before."""
    _calendar(url)
    now_ms = _now_ms(url)
    ends_at = datetime.fromtimestamp(now_ms / 1_000, UTC) + ends_in
    rules = Rules(limits=SHEDDING, windows={"spring": Term(ends_at - timedelta(days=1), ends_at)})
    asking = _admitting(url, rules, pace=pace)
    assert _answers(asking, order("u-0")) == [None]
    (answer,) = asking.book([_refused(_asked(order()), asking)])
    assert isinstance(answer, Limited)
    return answer, now_ms


@pytest.mark.usefixtures("skewed")
def test_the_wait_for_a_window_is_the_gates(valkey_url: str) -> None:
    """By the clock that will judge who comes; when it opens is told in UTC."""
    answer, before_ms = _booked(valkey_url, timedelta(hours=1))
    assert answer.appointment is not None
    assert answer.retry_after_ms == PACE.lead_ms
    begins_ms = answer.appointment.not_before.timestamp() * 1_000
    assert before_ms <= begins_ms - PACE.lead_ms <= _now_ms(valkey_url)
    assert answer.appointment.not_before.tzinfo is UTC


@pytest.mark.usefixtures("skewed")
def test_no_window_ends_after_its_campaign(valkey_url: str) -> None:
    """Whatever this process takes the time for."""
    answer, _ = _booked(valkey_url, timedelta(milliseconds=PACE.lead_ms + PACE.width_ms - 1))
    assert answer.appointment is None
    assert answer.retry_after_ms > 0


def test_who_lost_the_ticket_of_an_open_window_is_told_to_come_in_a_second(valkey_url: str) -> None:
    """Not at once: it has just been refused."""
    answer, _ = _booked(valkey_url, timedelta(hours=1), replace(PACE, lead_ms=0))
    assert answer.appointment is not None
    assert answer.retry_after_ms == 1_000


def test_a_holder_refused_by_what_is_no_load_has_its_window_again(valkey_url: str) -> None:
    """It may use it for another intent; who is refused by load has a new one instead."""
    _calendar(valkey_url)
    paused = Limits(merchants={"tea-house": None})
    rules = Rules(limits=paused, items_merchant={("spring", "tea"): "tea-house"})
    first = _asked(_holder(valkey_url))
    asking = _admitting(valkey_url, rules)
    assert asking.book([_refused(first, asking)]) == [
        NotAccepted("merchant_unavailable", final=False)
    ]
    second = Asked(replace(order(), appointment=first.posted.appointment), uuid7().bytes)
    open_again = _admitting(valkey_url, Rules(limits=SHEDDING))
    assert open_again.ask([second]) == [None]
    assert second.keeps_place


def test_a_holder_turned_away_without_a_new_window_has_its_own_again(valkey_url: str) -> None:
    """For another intent as well: nobody got anything for it."""
    rules = Rules(limits=Limits(ordered=Policy(level=Level.SHEDDING, admitted_per_s=0.001)))
    asking = _admitting(valkey_url, rules)
    assert _answers(asking, _holder(valkey_url, "u-0")) == [None]
    first = _asked(_holder(valkey_url))
    refused = _refused(first, asking)
    assert first.keeps_place
    assert asking.book([refused]) == [refused[1]]  # no calendar has begun
    second = Asked(replace(order(), appointment=first.posted.appointment), uuid7().bytes)
    asking.ask([second])
    assert second.keeps_place


def test_who_comes_early_after_a_flush_is_told_its_window_again(valkey_url: str) -> None:
    """A second one would make the first worth nothing."""
    _calendar(valkey_url)
    asking = _admitting(valkey_url, Rules(limits=SHEDDING))
    assert _answers(asking, order("u-0")) == [None]
    now_ms = _now_ms(valkey_url)
    window = Window(now_ms + 30_000, now_ms + 35_000)  # before any that the calendar may give
    ticket = TICKETS.sign(GATEWAY, "u-1", "spring", window)
    early = _asked(replace(order("u-1"), appointment=ticket))
    (answer,) = asking.book([_refused(early, asking)])
    assert isinstance(answer, Limited)
    assert answer.appointment is not None
    assert answer.appointment.ticket == ticket
    assert not early.keeps_place


def test_nobody_is_booked_for_when_what_he_wants_will_be_gone(valkey_url: str) -> None:
    """Beyond the predicted sell-out a window would be an empty promise."""
    _calendar(valkey_url)
    asking = _admitting(valkey_url, Rules(limits=SHEDDING))
    assert _answers(asking, order()) == [None]
    first, second = _refused(_asked(order("u-1")), asking), _refused(_asked(order("u-2")), asking)
    first[0].lasts_until_ms = _now_ms(valkey_url) + 1_000
    second[0].lasts_until_ms = _now_ms(valkey_url) + 600_000
    gone, lasting = asking.book([first, second])
    assert gone == first[1]
    assert isinstance(lasting, Limited)
    assert lasting.appointment is not None


def test_while_no_rate_is_bounded_nobody_is_booked(valkey_url: str) -> None:
    """Or without any policy: there is no pace to hand out windows by."""
    bounded = Policy(level=Level.SHEDDING, admitted_per_s=40, predicted_wait_ms=3_000)
    assert pace_of(bounded) == Pace(per_s=40 * APPOINTMENT_SHARE, lead_ms=3_000)
    draining = replace(bounded, service_per_s=100)  # what is admitted now says nothing of later
    assert pace_of(draining) == Pace(per_s=100 * APPOINTMENT_SHARE, lead_ms=3_000)
    for policy in (None, Policy(), Policy(level=Level.SHEDDING)):
        assert pace_of(policy) is None
    _calendar(valkey_url)
    asking = _admitting(valkey_url, Rules(limits=SHEDDING), pace=None)
    assert _answers(asking, order()) == [None]
    refused = _refused(_asked(order()), asking)
    assert asking.book([refused]) == [refused[1]]


# Verdicts ----------------------------------------------------------------------------------------


def _limits(**layers: RateLimit) -> Limits:
    return Limits({"spring": CampaignLimits(**layers)})


@pytest.mark.parametrize(
    ("limit", "limits", "quota"),
    [
        ("user", _limits(user=ONE), ONE),
        ("conversation", _limits(conversation=ONE), None),
        ("gateway", Limits(gateways={GATEWAY: ONE}), ONE),
        ("campaign", _limits(campaign=ONE), None),
        ("sku", _limits(sku=ONE), None),
        ("level", SHEDDING, None),
    ],
)
def test_a_rate_is_told_by_its_name_and_a_callers_own_with_its_quota(
    valkey_url: str, limit: str, limits: Limits, quota: RateLimit | None
) -> None:
    """Only of what is the caller's alone can it be said what is left."""
    asking = _admitting(valkey_url, Rules(limits=limits))
    first, second = (order(conversation_id="talk") for _ in range(2))
    taken, answer = _answers(asking, first, second)
    assert taken is None
    assert isinstance(answer, Limited)
    assert (answer.limit, answer.quota, answer.appointment) == (limit, quota, None)
    assert answer.level is (Level.SHEDDING if limit == "level" else Level.NORMAL)
    assert answer.retry_after_ms > 0


def test_what_is_in_flight_and_what_comes_too_late_are_told_by_their_names(valkey_url: str) -> None:
    """Both are load: the level says nothing of them."""
    full = _admitting(valkey_url, gate=open_gate(valkey_url, in_flight_max=1))
    slow = Limits(ordered=Policy(level=Level.NORMAL, service_per_s=0.001))
    late = _admitting(valkey_url, Rules(limits=slow))
    answers = [*_answers(full, order(), order()), *_answers(late, order(), order())]
    told = [answer.limit for answer in answers if isinstance(answer, Limited)]
    assert told == ["in_flight", "deadline", "deadline"]


def test_a_paused_merchant_is_told_without_a_time_and_a_busy_one_with_it(valkey_url: str) -> None:
    """Nobody knows when an operator lifts a pause."""
    answers = []
    for limit in (None, ONE):
        rules = Rules(
            limits=Limits(merchants={"tea-house": limit}),
            items_merchant={("spring", "tea"): "tea-house"},
        )
        answers += _answers(_admitting(valkey_url, rules), order(), order())
    assert answers[:3] == [NotAccepted("merchant_unavailable", final=False)] * 2 + [None]
    busy = answers[3]
    assert isinstance(busy, NotAccepted)
    assert (busy.reason, busy.final) == ("merchant_unavailable", False)
    assert busy.try_again_at is not None
    assert busy.try_again_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("posted", "key", "scarce", "gone"),
    [
        (order, "stock:spring:tea", "likely_sold_out", "sold_out"),
        (issuance, "budget:spring", "budget_exhausted", "budget_exhausted"),
    ],
)
def test_what_is_gone_is_told_for_good_and_what_is_scarce_with_the_odds(
    valkey_url: str, posted: Callable[[], Posted], key: str, scarce: str, gone: str
) -> None:
    """A business answer, whatever the level; only committed nothing is final."""
    gate, rules = open_gate(valkey_url), Rules(coupon_values={"spring": 1})
    asking = _admitting(valkey_url, rules, gate=gate, level=Level.NORMAL)
    gate.tell_balances([Balance(key, 1, 1, 0)])
    last = NotAccepted(scarce, final=False, odds=odds(ahead=1, left=1, amount=1))
    assert _answers(asking, posted(), posted()) == [None, last]
    gate.tell_balances([Balance(key, 2, 0, 0)])
    assert _answers(asking, posted()) == [NotAccepted(gone, final=True)]


@pytest.mark.parametrize("lines", [(("tea", 1), ("milk", 5)), (("milk", 5), ("tea", 1))])
def test_the_odds_are_of_what_is_short_whatever_stands_beside_it(
    valkey_url: str, lines: tuple[tuple[str, int], ...]
) -> None:
    """One is left of the tea, and one is ahead; there is milk for all."""
    gate = open_gate(valkey_url)
    gate.tell_balances(
        [Balance("stock:spring:tea", 1, 1, 0), Balance("stock:spring:milk", 1, 100, 0)]
    )
    asking = _admitting(valkey_url, gate=gate, level=Level.NORMAL)
    short = NotAccepted("likely_sold_out", final=False, odds=odds(ahead=1, left=1, amount=1))
    assert 0 < odds(ahead=1, left=1, amount=1) < 1
    assert _answers(asking, order(), order(lines=lines)) == [None, short]


def test_closed_is_told_as_a_limit_to_orders_and_wishes_alike(valkey_url: str) -> None:
    """Nothing is taken: that says more than that no coupons are given out."""
    asking = _admitting(valkey_url, Rules(limits=Limits(ordered=Policy(level=Level.CLOSED))))
    for answer in _answers(asking, order(), issuance()):
        assert answer == Limited("level", 0, Level.CLOSED)


def test_a_level_that_pauses_issuance_says_who_paused_it_and_until_when(valkey_url: str) -> None:
    """Load ends when it ends; an operator's order may name its end."""
    until_ms = _now_ms(valkey_url) + 3_600_000
    until = datetime.fromtimestamp(until_ms / 1_000, UTC)
    for ordered, resume_at in ((None, None), (until_ms, until)):
        policy = Policy(level=Level.THROTTLED, until_ms=ordered)
        asking = _admitting(valkey_url, Rules(limits=Limits(ordered=policy)))
        told = IssuancePaused(resume_at, Level.THROTTLED, "operator")
        assert _answers(asking, issuance(), order()) == [told, None]
    gate = open_gate(valkey_url)
    epoch = gate.take_lead("test", 60_000)
    assert epoch is not None
    gate.publish(Policy(level=Level.THROTTLED), epoch=epoch, lease_ms=60_000)
    asking = _admitting(valkey_url, gate=gate)
    assert _answers(asking, issuance()) == [IssuancePaused(None, Level.THROTTLED, "load")]


def test_a_campaign_whose_issuance_an_operator_paused_still_sells(valkey_url: str) -> None:
    """The gate need not be asked; other campaigns go on giving out coupons."""
    rules = Rules(issuance_pauses={"spring": IN_AN_HOUR})
    asking = _admitting(valkey_url, rules, level=Level.THROTTLED)
    batch = [_asked(one) for one in (issuance(), order(), issuance(campaign_id="autumn"))]
    paused = IssuancePaused(IN_AN_HOUR, Level.THROTTLED, "operator")
    assert asking.ask(batch) == [paused, None, None]
