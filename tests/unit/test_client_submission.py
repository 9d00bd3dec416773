"""What becomes of one wish, in virtual time."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from uuid import UUID

import msgspec
import pytest
from client_world import BEGAN, a_world, an_order, in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.client.faults import Forbidden, GatewayFault, KeyConflict
from producer.client.model import (
    Accepted,
    Committed,
    NotAccepted,
    SubmitResult,
    TurnedAway,
    Unknown,
)
from producer.client.pacing import Throttle
from producer.client.replies import Reply
from producer.client.requests import Request


def test_an_order_that_is_decided_in_time_is_told_at_once() -> None:
    """One post that prefers to wait as long as the caller is patient."""
    world, _ = a_world()
    result = world.call(world.core.submit(an_order("k-1"), 8.5))
    assert isinstance(result, Committed)
    assert (result.idempotency_key, result.message, result.replayed) == ("k-1", "Told.", False)
    ((_, post),) = world.sent
    assert post.headers["prefer"] == "wait=8"
    assert post.timeout_s == 8 + world.core.options.timeout_s


def test_a_wish_without_a_key_gets_one_and_keeps_it() -> None:
    """Whatever is lost, the key that the result names is the only one that was sent."""
    world, api = a_world(in_turn("lose_after", "lose_before", "bad_gateway", "commit"))
    result = world.call(world.core.submit(an_order(), 30))
    assert isinstance(result, Committed)
    assert result.replayed
    assert set(api.held) == {result.idempotency_key}
    assert len(result.idempotency_key) == 36
    assert {post.headers["idempotency-key"] for _, post in world.sent} == {result.idempotency_key}


def test_a_receipt_is_polled_as_told_until_the_outcome() -> None:
    """The first poll comes no sooner than `poll_after_ms`."""
    world, _ = a_world(in_turn("accept"))
    result = world.call(world.core.submit(an_order("k-1"), 10))
    assert isinstance(result, Committed)
    (posted_at, _), (polled_at, poll) = world.sent
    assert poll.method == "GET"
    assert 0.2 <= polled_at - posted_at <= 0.4


def test_an_impatient_caller_gets_the_receipt() -> None:
    """And follows it later."""
    world, _ = a_world(in_turn("accept"))
    result = world.call(world.core.submit(an_order("k-1"), 0))
    assert isinstance(result, Accepted)
    assert len(world.sent) == 1
    assert "prefer" not in world.sent[0][1].headers
    assert isinstance(world.call(world.core.follow(result)), Committed)


def test_a_receipt_is_told_even_where_the_key_may_not_read() -> None:
    """Once accepted, nothing is raised: the promise is worth more than the poll."""
    world, api = a_world(in_turn("accept"))
    serve = world.serve
    world.serve = lambda request: (
        api.problem(403, code="scope_missing") if request.method == "GET" else serve(request)
    )
    assert isinstance(world.call(world.core.submit(an_order("k-1"), 10)), Accepted)
    with pytest.raises(Forbidden):
        world.call(world.core.follow(Accepted(message="", intent_id=UUID(int=1))))


def test_a_business_no_is_told_and_not_repeated() -> None:
    """`final` means it."""
    world, _ = a_world(in_turn("sold_out"))
    result = world.call(world.core.submit(an_order("k-1"), 30))
    assert isinstance(result, NotAccepted)
    assert (result.reason, result.final, result.message) == ("sold_out", True, "No.")
    assert len(world.sent) == 1


def test_who_is_turned_away_comes_back_as_told_while_patience_lasts() -> None:
    """Never earlier; the chat hears of the wait before it begins."""
    world, api = a_world(in_turn("shed", "limited", "commit"))
    result = world.call(world.core.submit(an_order("k-1", locale="zh-CN"), 30))
    assert isinstance(result, Committed)
    assert not api.early
    first, second = world.notices
    assert (first.reason, first.limit, second.limit) == ("turned_away", "level", "user")
    assert "6秒" in first.message
    assert 5.0 <= first.wait_s <= 5.5
    assert first.until == BEGAN + timedelta(seconds=first.wait_s + 0.01)


def test_who_is_turned_away_for_longer_than_patience_is_told_at_once() -> None:
    """No wait for nothing; the result holds all that is needed to come back, even after a restart."""
    world, api = a_world(in_turn("shed", "commit"))
    told = world.call(world.core.submit(an_order("k-1", coupon_code="SECRET"), 4.9))
    assert isinstance(told, TurnedAway)
    assert world.now - 1_000 < 0.1
    assert (told.level, told.limit, told.retry_after_s) == ("shedding", "level", 5.0)
    assert told.message == "Busy: reduced_capacity."
    assert "SECRET" not in repr(told)
    kept = msgspec.json.decode(msgspec.json.encode(told), type=SubmitResult)
    assert kept == told
    early = world.call(world.core.submit(kept.wish, 1))
    assert isinstance(early, TurnedAway)
    assert early.wish == kept.wish
    assert len(world.sent) == 1
    assert isinstance(world.call(world.core.submit(kept.wish, 10)), Committed)
    assert not api.early
    assert set(api.held) == {"k-1"}


@pytest.mark.parametrize("skew_s", [0.0, 3_600.0, -3_600.0])
@pytest.mark.parametrize(("told_more_s", "earliest_s"), [(0.0, 0.0), (2.0, 2.0), (5.0, 0.0)])
def test_an_appointment_is_kept_by_the_apis_clock(
    skew_s: float, told_more_s: float, earliest_s: float
) -> None:
    """Within its window, with its ticket, whatever this machine's clock says.

    A Retry-After that lies in the window holds too; one beyond it would miss the appointment.
    """
    for seed in range(20):
        world, api = a_world(in_turn("appoint", "commit"), skew_s=skew_s, seed=seed)
        api.wait_s, api.told_more_s = 20.0, told_more_s
        assert isinstance(world.call(world.core.submit(an_order("k-1"), 30)), Committed)
        (_, first), (returned_at, back) = world.sent
        assert "tidegate-appointment" not in first.headers
        assert back.headers["tidegate-appointment"] == "t1"
        assert 1_020.0 + earliest_s <= returned_at <= 1_024.0
        assert not api.early
        (notice,) = world.notices
        assert notice.reason == "appointment"
        assert "your turn" in notice.message


def test_an_appointment_beyond_patience_is_told_and_kept_by_resuming() -> None:
    """Even if the wish is resumed too early: it waits for its window."""
    world, api = a_world(in_turn("appoint", "commit"), skew_s=100.0)
    api.wait_s = 600.0
    told = world.call(world.core.submit(an_order("k-1"), 30))
    assert isinstance(told, TurnedAway)
    assert told.appointment is not None
    assert told.appointment.ticket == "t1"
    assert told.try_again_at is not None
    assert told.appointment.not_before == BEGAN + timedelta(seconds=600)
    world.now += 590
    assert isinstance(world.call(world.core.submit(told.wish, 30)), Committed)
    assert api.tickets == {"t1": 1}
    assert not api.early


def test_a_crowd_that_was_invited_comes_back_whole() -> None:
    """Who comes by appointment takes nothing of the budget for repeats."""

    def deed(request: Request) -> str:
        return "commit" if "tidegate-appointment" in request.headers else "appoint"

    world, api = a_world(deed)
    for n in range(200):
        world.start(world.core.submit(an_order(f"k-{n}"), 30), n / 100)
    # Nobody was taken at first, so the throttle holds some back: they never heard of a time.
    told = [result for result in world.run() if getattr(result, "limit", "") != "client"]
    assert len(told) >= Throttle.requests_min
    assert all(isinstance(result, Committed) for result in told)
    assert not api.early


def test_the_same_ticket_again_is_a_repeat_and_not_another_invitation() -> None:
    """An API that hands out appointments it does not keep is not stormed."""
    world, api = a_world(in_turn("appoint"))
    api.wait_s, api._numbers = 0.0, iter(lambda: 1, 0)  # type: ignore[assignment]
    result = world.call(world.core.submit(an_order("k-1"), 600))
    assert isinstance(result, TurnedAway)
    assert len(world.sent) <= 2 + world.core.options.retry_reserve / 2


def test_a_pause_without_an_end_is_told_at_once() -> None:
    """Issuance paused by an operator until nobody knows when."""
    world, api = a_world()
    world.serve = lambda request: api.problem(503, code="issuance_paused", accepted="no")
    result = world.call(world.core.submit(an_order("k-1"), 300))
    assert isinstance(result, TurnedAway)
    assert (result.code, result.retry_after_s, result.try_again_at) == (
        "issuance_paused",
        None,
        None,
    )
    resume_at = (BEGAN + timedelta(seconds=40)).isoformat()
    world.serve = lambda request: api.problem(
        503, code="issuance_paused", accepted="no", resume_at=resume_at
    )
    result = world.call(world.core.submit(an_order("k-1"), 3))
    assert result.retry_after_s == pytest.approx(40, abs=1)


def test_an_unreachable_api_is_no_doubt() -> None:
    """What was never sent cannot have been taken: tried again, then told as turned away."""
    world, _ = a_world(in_turn("refuse_connection", "refuse_connection", "commit"))
    assert isinstance(world.call(world.core.submit(an_order("k-1"), 10)), Committed)
    world, _ = a_world(in_turn("refuse_connection"))
    result = world.call(world.core.submit(an_order("k-1"), 5))
    assert isinstance(result, TurnedAway)
    assert (result.limit, result.retry_after_s) == ("connection", 1.0)
    assert "nothing was ordered" in result.message


def test_a_doubt_that_outlives_patience_is_told_as_unknown() -> None:
    """And can be resumed with the same key only."""
    world, api = a_world(in_turn("unknown_after", "lose_before"))
    result = world.call(world.core.submit(an_order("k-1"), 6))
    assert isinstance(result, Unknown)
    assert "do not order again" in result.message
    api.deeds = in_turn("shed")
    resumed = world.call(world.core.submit(result.wish, 10))
    assert isinstance(resumed, Committed)
    assert resumed.replayed
    assert set(api.held) == {"k-1"}


def test_a_no_just_after_a_lost_answer_is_not_believed() -> None:
    """The lost call may still be on its way into the journal; some seconds later it is there."""
    world, _ = a_world(in_turn("land_later", "sold_out", "shed"))
    result = world.call(world.core.submit(an_order("k-1"), 60))
    assert isinstance(result, Committed)
    world, _ = a_world(in_turn("lose_before", "sold_out"))
    result = world.call(world.core.submit(an_order("k-1"), 60))
    assert isinstance(result, NotAccepted)
    assert world.now - 1_000 > 10


def test_an_api_that_is_gone_ends_no_doubt() -> None:
    """That this send never left says nothing of the one before; nor does a proxy's word."""
    world, api = a_world(in_turn("lose_after", "refuse_connection"))
    assert isinstance(world.call(world.core.submit(an_order("k-1"), 30)), Unknown)
    world, api = a_world(in_turn("lose_after"))
    result = world.call(world.core.submit(an_order("k-1"), 0))
    world.now += 3_600
    world.serve = lambda request: api.reply(429, b"slow down", {"retry-after": "1"})
    assert isinstance(world.call(world.core.submit(result.wish, 0)), Unknown)


def test_a_full_intake_is_a_doubt_only_for_who_asks_again() -> None:
    """It did not look the key up; but this key was made a moment ago, and sent once."""
    world, _ = a_world(in_turn("intake_full"))
    assert isinstance(world.call(world.core.submit(an_order(), 0)), TurnedAway)
    assert isinstance(world.call(world.core.submit(an_order("k-1"), 0)), Unknown)
    told = world.call(world.core.submit(an_order(), 0))
    assert isinstance(world.call(world.core.submit(told.wish, 1)), Unknown)


def test_mistakes_are_raised_with_the_key_they_concern() -> None:
    """The API's own words, and the field."""
    world, api = a_world()
    world.serve = lambda request: api.problem(422, code="idempotency_conflict", detail="Taken.")
    with pytest.raises(KeyConflict, match="Taken") as conflict:
        world.call(world.core.submit(an_order("k-1"), 0))
    assert conflict.value.idempotency_key == "k-1"
    errors = [{"field": "lines[0].quantity", "detail": "Expected `int` <= 99"}]
    world.serve = lambda request: api.problem(400, code="invalid_field", errors=errors)
    with pytest.raises(GatewayFault, match=r"lines\[0\].quantity: Expected"):
        world.call(world.core.submit(an_order("k-1"), 0))


def test_closing_ends_waits_with_what_is_known() -> None:
    """As if patience had ended."""
    for deed, kind in [("shed", TurnedAway), ("lose_after", Unknown), ("accept", Accepted)]:
        world, api = a_world(in_turn(deed))
        world.closing_at = world.now + 0.05
        api.wait_s = 5.0
        assert isinstance(world.call(world.core.submit(an_order("k-1"), 30)), kind)
        assert len(world.sent) == 1


_DEEDS = ["commit", "accept", "shed", "limited", "appoint", "sold_out", "lose_before", "lose_after"]
_DEEDS += ["land_later", "unknown_after", "bad_gateway", "refuse_connection", "intake_full"]


@settings(deadline=None, max_examples=200)
@given(
    mix=st.lists(st.sampled_from(_DEEDS), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    calls=st.integers(1, 60),
    wait_s=st.floats(0.0, 8.0),
    skew_s=st.sampled_from([0.0, -50.0, 50.0]),
    patience_s=st.floats(0.0, 60.0),
    per_s=st.sampled_from([1.0, 20.0]),
)
def test_whatever_the_api_does_the_promises_of_the_sdk_hold(
    mix: list[str],
    seed: int,
    calls: int,
    wait_s: float,
    skew_s: float,
    patience_s: float,
    per_s: float,
) -> None:
    """Never earlier than told; repeats within the budget; one key; no false yes, and no false no."""
    random = Random(seed)
    world, api = a_world(lambda request: random.choice(mix), seed=seed, skew_s=skew_s)
    api.wait_s = wait_s
    for n in range(calls):
        world.start(world.core.submit(an_order(f"k-{n}"), patience_s), n / per_s)
    results = world.run()

    assert not api.early
    posts = world.posts()
    first_sends = len({str(post.headers["idempotency-key"]) for _, post in posts})
    invited = sum(1 for times in api.tickets.values() if times)
    repeats = len(posts) - first_sends - invited
    options = world.core.options
    trickled = (world.now - 1_000.0) * options.retry_trickle_per_s
    assert repeats <= 0.1 * first_sends + options.retry_reserve + trickled + 1e-6
    assert set(api.held) <= {f"k-{n}" for n in range(calls)}
    for n, result in enumerate(results):
        assert result.idempotency_key == f"k-{n}"
        assert result.message
        match result:
            case Committed() | Accepted():
                assert f"k-{n}" in api.held
            case TurnedAway() | NotAccepted():
                assert f"k-{n}" not in api.held
            case _:
                assert isinstance(result, Unknown)


def test_an_answer_that_cannot_be_read_is_a_doubt() -> None:
    """A proxy's page with status 200 is no receipt."""
    world, _ = a_world()
    for body in (b"<html>", b"{}", b'{"status": "committed"}', b"[" * 100_000, b"\xff"):
        world.serve = lambda request, body=body: Reply(200, {}, body)  # type: ignore[misc]
        assert isinstance(world.call(world.core.submit(an_order("k-1"), 0)), Unknown)
