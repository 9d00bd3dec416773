"""Repetition: the first few are told, the others counted, and the counts are told in the end."""

from __future__ import annotations

from config.repetition import BEYOND, Repetition

KEY = ("warning", "gate unreachable")


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_few_of_a_window_are_told_and_the_rest_counted_once() -> None:
    """And the next window begins anew."""
    clock = Clock()
    repetition = Repetition(count_max=3, window_s=10, clock=clock)
    assert [repetition.admit(KEY) for _ in range(8)] == [True] * 3 + [False] * 5
    assert repetition.ended() == []
    clock.now += 10
    assert repetition.ended() == [(KEY, 5)]
    assert repetition.ended() == []
    assert repetition.admit(KEY)


def test_what_goes_on_is_counted_window_by_window() -> None:
    """A storm that lasts is told of as long as it lasts."""
    clock = Clock()
    repetition = Repetition(count_max=1, window_s=10, clock=clock)
    counts = []
    for _ in range(3):
        for _ in range(5):
            repetition.admit(KEY)
        clock.now += 10
        counts += repetition.ended()
    assert counts == [(KEY, 4)] * 3


def test_a_window_that_begins_anew_forgets_no_count() -> None:
    """The same may be said again before anybody asked what was left out."""
    clock = Clock()
    repetition = Repetition(count_max=1, window_s=10, clock=clock)
    assert [repetition.admit(KEY) for _ in range(3)] == [True, False, False]
    clock.now += 11
    assert repetition.admit(KEY)
    assert repetition.ended() == [(KEY, 2)]


def test_different_things_do_not_hold_each_other_up() -> None:
    """Each has its own count, and may have its own bound."""
    repetition = Repetition(count_max=1)
    assert repetition.admit(KEY)
    assert repetition.admit((*KEY, "valkey"))
    assert [repetition.admit(("info", "request"), 2) for _ in range(3)] == [True, True, False]


def test_memory_is_bounded_and_what_is_beyond_is_counted_together() -> None:
    """Whoever makes every line another one does not fill the memory, nor the log."""
    clock = Clock()
    repetition = Repetition(count_max=2, window_s=10, keys_max=5, clock=clock)
    told = sum(repetition.admit(("error", str(number))) for number in range(1_000))
    assert told == 5 + 2
    clock.now += 10
    assert repetition.ended() == [(BEYOND, 993)]


def test_at_the_end_everything_left_out_is_told() -> None:
    """A process that ends does not wait for its windows."""
    repetition = Repetition(count_max=1)
    for _ in range(3):
        repetition.admit(KEY)
    assert repetition.ended(now_all=True) == [(KEY, 2)]
