"""A deaf worker is ended; a busy, an idle and a hearing one are not."""

from workers.runtime.watchdog import Hearing


def looks(*seen: tuple[int, int, int]) -> list[bool]:
    """Look once a second at (waiting, in hand, taken)."""
    hearing = Hearing(deaf_after_s=3)
    return [hearing.is_deaf(*look, now=float(at)) for at, look in enumerate(seen)]


def test_a_worker_that_takes_nothing_while_hints_wait_is_deaf() -> None:
    assert looks(*[(5, 0, 7)] * 5) == [False, False, False, False, True]


def test_a_worker_with_work_in_hand_is_not_deaf_however_long_it_takes() -> None:
    assert not any(looks(*[(5, 1, 7)] * 20))


def test_a_worker_without_hints_is_idle_not_deaf() -> None:
    assert not any(looks(*[(0, 0, 7)] * 20))


def test_a_hint_taken_between_two_looks_shows_that_it_hears() -> None:
    assert not any(looks(*[(5, 0, taken) for taken in range(20)]))
