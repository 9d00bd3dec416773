"""The generator over real sockets, against a toy that misbehaves on demand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from deploy.load import coupons, goods, job, plan, profile, report, wire
from deploy.load.books import Books
from deploy.load.drain import Patience
from deploy.load.generator import Mode
from deploy.load.plan import Plan
from deploy.load.profile import Issuance, Profile, Retry
from deploy.load.run import Played, play
from tests.integration.toy_api import Toy, serving

_GOODS = goods.load("qwen-spring-2026")
_STEADY = profile.load("steady")


@pytest.fixture
def toy() -> Iterator[Toy]:
    """A toy of the API; each test writes its script."""
    with serving(Toy()) as running:
        yield running


def _planned(count: int, duration_s: float, terms: Profile = _STEADY) -> Plan:
    return plan.orders(terms, _GOODS, [], count=count, duration_s=duration_s, seed=7)


def _hasty(name: str) -> Profile:
    """A profile whose coupons are asked for in no time."""
    return replace(profile.load(name), issuance=Issuance(duration_s=0.1))


def _without_repeats() -> Profile:
    return replace(_STEADY, mix=replace(_STEADY.mix, repeated_keys=0.0))


def _played(toy: Toy, planned: Plan, retry: Retry = _STEADY.retry, **how: Any) -> Played:
    return play(planned, wire.target(toy.url, "tg_toy"), retry, **how)


def _report(played: Played) -> report.Report:
    run = report.Run("steady", "open", 7, played.sending_s, played.drain_s, played.connections)
    return report.make(run, played.books)


def test_every_intent_is_sent_at_its_time_and_its_outcome_learned(toy: Toy) -> None:
    """Intents = outcomes: 1,000 receipts, 1,000 outcomes; the whole run replayed in the drain."""
    toy.outcome_of = lambda key: (
        ("refused", "sold_out") if key.endswith("9") else ("committed", None)
    )
    made = _report(_played(toy, _planned(1_000, 1.0, profile.load("qwen"))))
    assert made.holds
    assert (made.sent, made.accepted, made.outcomes) == (1_000, 1_000, 1_000)
    assert made.refused_with_receipt == {"sold_out": 100}
    assert made.committed == 900
    assert made.repeats_answered_the_same == made.posts - 1_000 > 30
    assert toy.batches >= 2  # the drain asked in batches, not a thousand times
    assert 0.9 <= made.sending_s <= 1.6


def test_a_stalling_server_does_not_slow_the_sending_and_its_stall_is_counted(toy: Toy) -> None:
    """Latency runs from the moment an intent was due: half a second of silence fills the tail.

    500 a second over 2 s, silent from 0.5 to 1.0: a quarter of all intents waits, a quarter of a
    second on average. A closed loop would have sent next to nothing in it, and shown it once.
    """
    toy.stall = (0.5, 1.0)
    made = _report(_played(toy, _planned(1_000, 2.0)))
    assert made.sending_s < 2.5
    assert made.latency_ms.acceptance.p50 < 100
    assert made.latency_ms.acceptance.p90 > 250
    assert made.latency_ms.acceptance.max > 400


def test_a_wait_for_a_free_connection_counts_as_latency(toy: Toy) -> None:
    """With two connections only, intents queue behind the stall; their due times stay."""
    toy.stall = (0.3, 0.9)
    played = _played(toy, _planned(400, 1.2), mode=Mode(connections=2))
    made = _report(played)
    assert toy.connections <= 2 + 32  # the drain has connections of its own
    assert played.connections == 2
    assert made.latency_ms.acceptance.max > 500
    assert made.latency_ms.reply.p90 < 100 < made.latency_ms.acceptance.p90


def test_a_lost_reply_is_asked_for_again_with_the_same_key(toy: Toy) -> None:
    """Whether the intent was taken before the connection broke or not: one key, one intent."""

    def drop_first(key: str, times: int) -> str | None:
        if times > 1:
            return None
        return ("drop", "take_and_drop", None)[int(key.rsplit("-", 1)[1]) % 3]

    toy.script = drop_first
    made = _report(_played(toy, _planned(300, 0.3)))
    assert made.holds
    assert made.accepted == 300
    assert made.replies_lost == made.retries == 200
    keys = Counter(key for key, _ in toy.posts)
    assert len(keys) == len(toy.intents) == 300


def test_an_unclear_answer_is_asked_for_again_and_a_refusal_is_taken(toy: Toy) -> None:
    """503 `unknown` comes back with the same key; 422 never does."""

    def script(key: str, times: int) -> Any:
        if key.endswith("0"):
            return 422, {"code": "idempotency_conflict", "status": 422}
        if key.endswith("1") and times == 1:
            return 503, {"accepted": "unknown", "status": 503}
        return None

    toy.script = script
    made = _report(_played(toy, _planned(100, 0.2)))
    assert made.holds
    assert made.refused_at_once == {"idempotency_conflict": 10}
    assert (made.accepted, made.retries) == (90, 10)


def test_retry_after_is_honoured_up_to_the_profiles_bound(toy: Toy) -> None:
    """One second is waited; a minute is not, and counts as refused for the limit it names."""

    def script(key: str, times: int) -> Any:
        if times > 1:
            return None
        wait, limit = ("60", "gateway") if key.endswith("5") else ("1", "user")
        return 429, {"limit": limit, "status": 429}, {"Retry-After": wait}

    toy.script = script
    began = time.monotonic()
    made = _report(_played(toy, _planned(20, 0.1)))
    assert 1.0 <= time.monotonic() - began < 3.0
    assert made.refused_at_once == {"limit:gateway": 2}
    assert made.accepted == 18
    assert made.told_no["limit:user"] >= 18


def test_a_storm_retries_at_once_and_gives_up(toy: Toy) -> None:
    """Five attempts, without waiting, whatever Retry-After says."""
    toy.script = lambda key, times: (
        503,
        {"accepted": "no", "level": "shedding"},
        {"Retry-After": "9"},
    )
    retry = Retry(refused="at_once", attempts_max=5)
    began = time.monotonic()
    made = _report(_played(toy, _planned(50, 0.1, _without_repeats()), retry))
    assert time.monotonic() - began < 2.0
    assert made.refused_at_once == {"shedding": 50}
    assert made.told_no == {"shedding": 250}
    assert made.holds


def test_a_reply_that_never_comes_is_looked_up_by_its_key(toy: Toy) -> None:
    """Attempts spent, the drain asks what the key is bound to: taken, or surely not."""
    toy.script = lambda key, times: "take_and_drop" if key.endswith("1") else "drop"
    retry = Retry(attempts_max=2)
    made = _report(_played(toy, _planned(50, 0.1, _without_repeats()), retry))
    assert made.holds
    assert made.accepted == 5
    assert made.refused_at_once == {"reply_lost": 45}


def test_a_system_that_forgets_a_receipt_is_caught(toy: Toy) -> None:
    """The drain's replay names another intent for a known key; the check fails and says so."""
    planned = _planned(40, 0.1, _without_repeats())

    def forget(moment: Any) -> None:
        if moment.stage == "draining" and len(toy.intents) == 40:
            for key in list(toy.intents)[:3]:
                toy.intents[key] = toy.intents[key] | {"id": "another"}

    toy.decide_after_s = 0.0
    made = _report(_played(toy, planned, watch=forget))
    assert not made.holds
    assert made.faults.keys_answered_differently == 3


def test_a_receipt_without_an_outcome_ends_the_drain_in_time(toy: Toy) -> None:
    """The drain's patience is bounded; what is open then stands in the report."""
    toy.decide_after_s = 3_600
    made = _report(_played(toy, _planned(20, 0.1), patience=Patience(drain_max_s=0.5)))
    assert made.faults.receipts_without_outcome == 20
    assert made.drain_s < 3


def test_batches_carry_many_intents_and_are_answered_one_by_one(toy: Toy) -> None:
    """A batch waits for its last intent at most 20 ms, and each counts from its own due time."""
    made = _report(_played(toy, _planned(1_000, 0.5), mode=Mode(batch=50)))
    assert made.holds
    assert made.accepted == 1_000
    assert not toy.posts  # nothing went through the single endpoint
    assert made.posts < 60
    assert made.latency_ms.acceptance.max >= 15


def test_a_closed_loop_keeps_its_connections_busy(toy: Toy) -> None:
    """Each answer sends the next; when intents were due plays no part."""
    made = _report(_played(toy, _planned(2_000, 3_600.0), mode=Mode(connections=8, closed=True)))
    assert made.accepted == 2_000
    assert made.connections == 8
    assert made.sending_s < 5


def test_a_server_that_is_away_leaves_intents_unsent_and_unpromised() -> None:
    """Nothing was written, so nothing can have been accepted."""
    planned = _planned(5, 0.05, _without_repeats())
    nowhere = wire.target("http://127.0.0.1:9", "tg_toy")
    played = play(planned, nowhere, Retry(attempts_max=1, answer_timeout_s=0.3))
    tally = played.books.tally()
    assert (tally.unsent, tally.accepted, tally.posts) == (5, 0, 0)


def test_coupons_are_asked_for_and_their_codes_learned(toy: Toy) -> None:
    """Issuance goes through the API like an order; the code comes with the outcome."""
    users = [plan.user(n) for n in range(1, 101)]
    terms = _hasty("qwen")
    issued = coupons.ask(users, terms, _GOODS, wire.target(toy.url, "tg_toy"), seed=1)
    assert sorted(issued.coupons) == sorted((user, f"CODE{user}") for user in users)
    assert issued.played.books.faults().none


def test_a_failing_display_ends_the_run_instead_of_hanging_it(toy: Toy) -> None:
    """A closed pipe at the other end of our output is heard at once."""

    def broken(moment: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        _played(toy, _planned(1_000, 1.0), watch=broken)


def test_books_of_a_run_add_up_under_every_misbehaviour(toy: Toy) -> None:
    """Whatever the server does, every intent is in exactly one place at the end."""

    def chaos(key: str, times: int) -> Any:
        number = int(key.rsplit("-", 1)[1])
        answers: list[Any] = [
            None,
            "drop",
            "take_and_drop",
            (503, {"accepted": "unknown"}),
            (503, {"accepted": "no"}),
            (429, {"limit": "user"}, {"Retry-After": "1"}),
            (200, {"status": "not_accepted", "reason": "sold_out", "final": True}),
            (500, {}),
        ]
        return answers[(number + times * 3) % len(answers)] if times < 4 else None

    toy.script = chaos
    terms = profile.load("retry-storm")
    made = _report(_played(toy, _planned(400, 0.3, terms), terms.retry))
    placed = made.accepted + sum(made.refused_at_once.values()) + made.unsent + made.unknown
    assert placed == made.intents == 400
    assert made.unknown == 0
    assert made.accepted == made.outcomes == len(toy.intents)


def test_a_job_is_shown_and_ends_with_its_verdict(toy: Toy) -> None:
    """From coupons to report, a step at a time."""
    shown: list[str] = []

    class Screen:
        def begin(self, title: str) -> None:
            shown.append(title)

        def show(self, frame: Any) -> None:
            assert frame.share <= 1

        def done(self, remark: str) -> None:
            shown.append(remark)

        def close(self) -> None: ...

    wish = job.Job(
        name="qwen",
        profile=_hasty("qwen"),
        goods=_GOODS,
        to=wire.target(toy.url, "tg_toy"),
        scale=profile.Scale(200, 0.5),
        mode=Mode(),
        seed=1,
        issue=50,
    )
    made = job.execute(wish, Screen())
    assert made.holds
    assert shown[0] == "Asking for 50 coupons"
    assert shown[-1].startswith("intents = outcomes: yes")
    assert len(shown) == 2 * wish.steps


def test_books_are_the_same_object_that_was_watched(toy: Toy) -> None:
    """A watcher sees the run's own books grow, not a copy."""
    seen: list[Books] = []
    played = _played(toy, _planned(10, 0.05), watch=lambda moment: seen.append(moment.books))
    assert all(books is played.books for books in seen)
