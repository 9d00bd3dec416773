"""Buyers who come back, and what the rows about them make of what they heard."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import msgspec
import pytest

from deploy.load.wire import Reply, target
from tests.benchmarks import rows_appointments, rows_faults, rows_scarce
from tests.benchmarks.buyers import (
    ACCEPTED,
    UNCLEAR,
    WAIT,
    Heard,
    Place,
    as_told,
    heard_of,
)
from tests.benchmarks.orders import Orders, scarce_campaign, scarce_posts
from tests.benchmarks.rows_faults import Glance, Part, reconciled_s, windows_over_pace
from tests.benchmarks.rows_scarce import Sale
from workers.domain.campaign import parse
from workers.domain.intent import OrderIntent

TO = target("http://127.0.0.1:8080", "tg_key")
NOON = 1_790_000_000.0


def _place(opens: float, closes: float) -> Place:
    return Place("t" * 32, datetime.fromtimestamp(opens, UTC), datetime.fromtimestamp(closes, UTC))


def _heard(
    buyer: int = 1,
    at: float = NOON,
    word: str = ACCEPTED,
    *,
    final: bool = False,
    intent_id: str = "",
    place: Place | None = None,
    shown: Place | None = None,
) -> Heard:
    return Heard(
        buyer=buyer,
        sent_at=at,
        heard_at=at + 0.01,
        word=word,
        final=final,
        intent_id=intent_id,
        place=place,
        shown=shown,
    )


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (202, b'{"intent_id":"i","status":"accepted"}', ACCEPTED),
        (200, b'{"intent_id":"i","status":"committed"}', ACCEPTED),
        (200, b'{"status":"not_accepted","reason":"sold_out","final":true}', "sold_out"),
        (429, b'{"status":429,"limit":"user"}', WAIT),
        (503, b'{"status":503,"accepted":"no"}', WAIT),
        (503, b'{"status":503,"accepted":"unknown"}', UNCLEAR),
        (500, b"{}", UNCLEAR),
        (422, b'{"status":422}', "http_422"),
        (202, b"{", UNCLEAR),
    ],
)
def test_an_answer_is_read_for_what_its_buyer_may_do(status: int, body: bytes, word: str) -> None:
    """Only a plain no is one; who cannot know what became of his wish is told so."""
    assert heard_of(1, NOON, NOON, Reply(status, body, 0.0, False)).word == word


def test_no_answer_leaves_its_buyer_in_doubt() -> None:
    """It may have been accepted."""
    assert heard_of(1, NOON, NOON, None).word == UNCLEAR


def test_the_longer_of_two_told_waits_holds() -> None:
    """The header counts whole seconds, the body milliseconds; each has its own jitter."""
    reply = Reply(503, b'{"accepted":"no","retry_after_ms":1500}', 2.0, False)

    assert heard_of(1, NOON, NOON, reply).wait_s == 2.0


def test_who_has_an_appointment_comes_within_its_window() -> None:
    """At any moment of it; else after the wait that was told, and never before."""
    come_back = as_told(Random(1))
    given = _heard(word=WAIT, place=_place(NOON + 60, NOON + 65))

    moments = [come_back(given) for _ in range(200)]

    assert all(moment is not None and NOON + 60 <= moment <= NOON + 65 for moment in moments)
    assert len(set(moments)) > 100
    told = msgspec.structs.replace(_heard(word=WAIT), wait_s=3.0)
    again = come_back(told)
    assert again is not None
    assert 3.0 <= again - told.heard_at <= 3.3


def test_who_heard_a_no_of_business_stays_away_and_so_does_one_in_ten() -> None:
    """The others' windows are used."""
    come_back = as_told(Random(1), away=0.1)
    given = _heard(word=WAIT, place=_place(NOON + 60, NOON + 65))

    came = sum(come_back(given) is not None for _ in range(1_000))

    assert 850 < came < 950
    assert come_back(_heard(word="sold_out", final=True)) is None
    assert come_back(_heard(word=ACCEPTED)) is None


def test_a_repeated_post_differs_by_its_ticket_alone() -> None:
    """The same key, the same body: else it would be another intent."""
    orders = Orders(TO, [("u-1", "CODE1"), ("u-2", "CODE2")], "r")

    first, again = orders.post(1), orders.post(1, "TICKET")

    assert again == first.replace(
        b"Idempotency-Key", b"Tidegate-Appointment: TICKET\r\nIdempotency-Key"
    )
    assert orders.used == 2
    assert list(Orders(TO, orders.coupons, "r").posts())[1] == first


def test_scarce_is_one_unit_of_one_sku_for_each_buyer() -> None:
    """The campaign is valid, and a post is an intent in it."""
    file = parse(scarce_campaign(1_000))
    post = scarce_posts(TO)(7, "")

    intent = msgspec.json.decode(post.partition(b"\r\n\r\n")[2], type=OrderIntent)
    assert [(item.sku, item.stock) for item in file.items] == [("scarce", 1_000)]
    assert (intent.campaign_id, intent.user_id) == (file.campaign.campaign_id, "u-7")
    assert [(line.sku, line.quantity) for line in intent.lines] == [("scarce", 1)]


def test_whoever_is_sent_to_wait_for_what_is_spoken_for_is_counted() -> None:
    """From the acceptance of the last unit's intent on, and the age of what the gate knows."""
    sale = Sale(0, 0, 10, 10, 10, covered_at=NOON + 1, gone_at=NOON + 3)
    heard = [
        _heard(1, NOON + 1.4, WAIT),
        _heard(2, NOON + 1.6, WAIT, place=_place(NOON + 4, NOON + 9)),
        _heard(3, NOON + 3.2, "likely_sold_out"),
        _heard(4, NOON + 3.3, "sold_out", final=True),
    ]

    figures = rows_scarce.figures_of(heard, sale, units=10, age_s=0.5)

    assert figures["waits"] == 2
    assert figures["waits_after_covered"] == 1
    assert figures["appointments_too_late"] == 1
    assert figures["sold_out_lag_ms"] == pytest.approx(210, abs=1)
    assert figures["sold_out_first_ms"] == pytest.approx(310, abs=1)
    assert figures["oversold"] == figures["unsold"] == 0


def test_units_too_many_or_left_over_are_told() -> None:
    """Neither may hide the other."""
    heard = [_heard()]

    over = rows_scarce.figures_of(heard, Sale(0, 1, 10, 11, 11, NOON, NOON), 10, 0.5)
    under = rows_scarce.figures_of(heard, Sale(1, 0, 9, 9, 9, NOON, NOON), 10, 0.5)

    assert over["oversold"] == 1
    assert (under["oversold"], under["unsold"]) == (0, 1)


def test_windows_closer_than_the_pace_are_counted() -> None:
    """A calendar that begins again gives moments between those that it gave before."""
    once = [NOON + n / 100 for n in range(100)]
    twice = [NOON + n / 100 + 0.005 for n in range(50)]

    assert windows_over_pace(once, per_s=100) == 0
    assert windows_over_pace(once + twice, per_s=100) == 100
    assert windows_over_pace(once, per_s=0) == 100


def test_a_gate_that_forgets_again_counts_from_the_first_time() -> None:
    """Until it knew for good; what came before the fault is not its own."""
    part = Part("flushed", NOON, NOON + 10)
    known = {NOON - 1: False, NOON: True, NOON + 1: False, NOON + 2: True, NOON + 3: False}
    seen = [
        Glance(at, 0, reconciled=is_known) for at, is_known in (known | {NOON + 4: True}).items()
    ]

    assert reconciled_s(part, seen) == 3
    assert reconciled_s(part, seen[:2]) == 0


def test_the_worst_of_all_faults_is_told() -> None:
    """Bounds are held against the greatest number in flight, goodput against the part before."""
    parts = [Part(name, NOON + at, NOON + at + 1) for at, name in enumerate(("before", "a", "b"))]
    seen = [Glance(NOON, rows_faults.IN_FLIGHT_MAX // 2, True, 100.0), Glance(NOON + 1, 3, True)]

    figures = rows_faults.figures_of(
        [_heard()], parts, seen, {"before": 200.0, "a": 150.0, "b": 180.0}
    )

    assert figures["in_flight_over_bound"] == 0.5
    assert figures["goodput_least"] == 0.75
    assert figures["b, over before"] == 0.9
    assert figures["pace_max_per_s"] == 100.0


def test_only_who_comes_in_his_window_is_held_against_the_promise() -> None:
    """His first visit there counts; that he was served at his second does not make it at once."""
    window, next_window = _place(NOON, NOON + 5), _place(NOON + 9, NOON + 14)
    heard = [
        _heard(1, NOON + 1, ACCEPTED, intent_id="one", shown=window),
        _heard(2, NOON + 1, WAIT, place=next_window, shown=window),
        _heard(2, NOON + 10, ACCEPTED, intent_id="two", shown=next_window),
        _heard(3, NOON + 6, ACCEPTED, intent_id="three", shown=window),
        _heard(4, NOON + 2, ACCEPTED, intent_id="four"),
    ]

    figures = rows_appointments.figures_of(heard, {"one": NOON + 2, "two": NOON + 12})

    assert figures["came"] == 2
    assert figures["admitted_at_once"] == 0.5
    assert figures["arrival_to_outcome_p99_s"] == 11
    assert figures["opening_to_outcome_p50_s"] == 2
    assert figures["never_served"] == 0
    assert figures["tickets_per_refusal"] == 1
