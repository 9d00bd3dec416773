"""The estimate of waits: measured where there is a measure, honest where there is silence."""

from __future__ import annotations

import itertools
import time

from producer.sojourn import FALLBACK_MS, REST_S_MAX, Sojourn, poll_ms, rest_s
from workers.domain.overload import Level


def test_before_any_measure_the_fallback_is_told() -> None:
    """A fresh process knows nothing, and says something plausible."""
    assert Sojourn().wait_ms() == FALLBACK_MS


def test_the_first_announcement_replaces_the_fallback() -> None:
    """What was measured once is better than what was guessed."""
    sojourn = Sojourn()
    sojourn.heard([2_000.0])
    assert 2_000 <= sojourn.wait_ms() < 2_200


def test_the_estimate_follows_the_announcements() -> None:
    """After a dozen samples the old world is forgotten."""
    sojourn = Sojourn()
    sojourn.heard([10_000.0])
    for _ in range(20):
        sojourn.heard([100.0, 100.0])
    assert 100 <= sojourn.wait_ms() < 400


def test_silence_after_an_acceptance_makes_the_estimate_grow() -> None:
    """Dead workers announce nothing: who was accepted has waited this long at least."""
    sojourn = Sojourn()
    sojourn.heard([1.0])
    assert sojourn.wait_ms() < 50
    sojourn.accepted()
    time.sleep(0.1)
    assert sojourn.wait_ms() >= 100
    sojourn.heard([1.0])
    assert sojourn.wait_ms() < 50


def test_silence_without_acceptances_is_no_sign() -> None:
    """At night nothing is announced because nothing is wished for."""
    sojourn = Sojourn()
    sojourn.heard([200.0])
    time.sleep(0.1)
    assert sojourn.wait_ms() < 400


def test_an_announcement_that_cannot_be_read_ends_the_silence_and_no_more() -> None:
    """Something was decided, and nobody knows how long it took."""
    sojourn = Sojourn()
    sojourn.heard([2_000.0])
    sojourn.accepted()
    sojourn.heard([])
    assert sojourn.wait_ms() == 2_000


def test_polling_is_neither_frantic_nor_forgotten() -> None:
    """The first poll is when the outcome is likely, within bounds, and with jitter upwards."""
    for wait_ms, least_ms in ((0, 100), (300, 300), (600_000, 5_000)):
        told = {poll_ms(wait_ms, Level.NORMAL) for _ in range(500)}
        assert least_ms <= min(told) < max(told) <= least_ms * 1.25


def test_polls_slow_down_as_the_system_closes() -> None:
    """Whoever polls least urgently costs least while others are being served."""
    at = [min(poll_ms(1_000, level) for _ in range(200)) for level in Level]
    assert all(after > before for before, after in itertools.pairwise(at))


def test_the_intake_rests_only_while_outcomes_are_late_and_never_for_long() -> None:
    """It keeps step with the workers; without any it goes on taking in, at half its pace or so."""
    assert [rest_s(ms, 1.0) for ms in (0, 20, 200)] == [0.0, 0.0, 0.0]
    assert rest_s(700, 1.0) == 0.05
    assert rest_s(60_000, 1.0) == REST_S_MAX


def test_the_intake_rests_for_what_it_accepted_only() -> None:
    """A refusal leaves workers nothing to do; those behind it are answered at once."""
    assert rest_s(60_000, 0.5) == REST_S_MAX / 2
    assert rest_s(60_000, 0.0) == 0.0


def test_what_outcomes_truly_took_is_known_for_a_while_only() -> None:
    """An idle evening later it says nothing of now; one that is not heard of shows as it waits."""
    sojourn = Sojourn()
    assert sojourn.true_ms(15) is None
    sojourn.heard([120.0])
    assert sojourn.true_ms(15) == 120
    sojourn._heard_at -= 16
    assert sojourn.true_ms(15) is None
    sojourn.accepted()
    assert sojourn._unheard_since is not None
    sojourn._unheard_since -= 2
    assert 2_000 <= (sojourn.true_ms(15) or 0) < 10_000
