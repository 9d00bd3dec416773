"""The books: what one sender saw, and what it proves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from deploy.load.books import Books, State
from deploy.load.report import Run, lines, make, verdict

_RUN = Run("steady", "open", 1, 10.0, 1.0, 3)


def _told(books: Books) -> str:
    return verdict(make(_RUN, books))


def _one_accepted() -> Books:
    books = Books(1)
    books.due(0, 1.0)
    books.accepted(0, "a", 1.5)
    return books


def test_a_receipt_with_its_outcome_adds_up() -> None:
    """One receipt, one outcome: the check holds, and its time is the server's."""
    books = _one_accepted()
    at = datetime.now(UTC)
    books.decided(0, "committed", (at, at + timedelta(seconds=2)))
    report = make(_RUN, books)
    assert report.holds
    assert report.committed_per_s == 0.5
    assert report.latency_ms.with_retries.max == 500
    assert "intents = outcomes: yes" in "\n".join(lines(report))


def test_a_receipt_without_an_outcome_is_told() -> None:
    """The check fails, and says how many are missing."""
    assert "NO (1 receipts, 0 outcomes; receipts without outcome: 1)" in _told(_one_accepted())


def test_a_key_answered_with_another_intent_is_told() -> None:
    """One key, one intent; the same again is as it should be."""
    books = _one_accepted()
    books.decided(0, "committed")
    books.accepted(0, "a", 2.0)
    assert make(_RUN, books).holds
    assert books.tally().repeats_same == 1
    books.accepted(0, "b", 2.0)
    assert "keys answered differently: 1" in _told(books)


def test_two_keys_with_one_intent_are_told() -> None:
    """Two promises kept by one order are one promise broken."""
    books = Books(2)
    for i in (0, 1):
        books.due(i, 0.0)
        books.accepted(i, "a", 1.0)
        books.decided(i, "committed")
    assert "intents shared: 1" in _told(books)


def test_an_outcome_that_changes_is_told() -> None:
    """An outcome is terminal."""
    books = _one_accepted()
    books.decided(0, "sold_out")
    books.decided(0, "sold_out")
    assert make(_RUN, books).holds
    books.decided(0, "committed")
    assert "outcomes changed: 1" in _told(books)
    assert make(_RUN, books).refused_with_receipt == {"sold_out": 1}


def test_a_no_after_the_receipt_is_false_and_one_that_crossed_it_is_not() -> None:
    """A post written before the receipt came may be answered no; one written later may not."""
    books = _one_accepted()
    books.decided(0, "committed")
    books.refused(0, "limit:user", 1.2)
    assert make(_RUN, books).holds
    books.refused(0, "limit:user", 1.6)
    assert "false noes: 1" in _told(books)


def test_an_intent_nobody_can_tell_about_does_not_add_up() -> None:
    """`unknown` must be resolved: left over, it is no outcome."""
    books = Books(1)
    books.due(0, 0.0)
    books.unknown(0)
    books.refused(0, "limit:user", 1.0)
    assert "unknown: 1" in _told(books)
    books.cleared(0, "reply_lost")
    report = make(_RUN, books)
    assert report.holds
    assert report.refused_at_once == {"reply_lost": 1}


def test_a_receipt_the_system_forgot_is_told_until_it_is_found() -> None:
    """The drain asks again; only what stays forgotten is a fault."""
    books = _one_accepted()
    books.decided(0, "committed")
    books.forgotten(0)
    assert "receipts forgotten: 1" in _told(books)
    books.remembered(0, "a")
    assert make(_RUN, books).holds


_DEEDS = st.sampled_from(["accepted", "refused", "unknown", "unsent", "cleared", "decided"])


@given(st.lists(st.tuples(st.integers(0, 4), _DEEDS), max_size=60))
def test_whatever_is_answered_every_intent_stands_in_one_place(
    deeds: list[tuple[int, str]],
) -> None:
    """The totals of the books are the sums of their lines, after any answers in any order."""
    books = Books(5)
    for i, deed in deeds:
        books.due(i, 0.0)
        if deed == "accepted":
            books.accepted(i, f"id-{i}", 1.0)
        elif deed == "refused":
            books.refused(i, "limit:user", 0.5)
        elif deed == "decided" and books.state[i] == State.ACCEPTED:
            books.decided(i, "committed")
        elif deed == "cleared" and books.state[i] == State.UNKNOWN:
            books.cleared(i, "reply_lost")
        elif deed in ("unknown", "unsent"):
            getattr(books, deed)(i)
    tally = books.tally()
    planned = len(books.in_state(State.PLANNED))
    assert planned + tally.accepted + tally.refused + tally.unknown + tally.unsent == 5
    assert tally.refused == books.refused_by.total() == len(books.reasons)
    assert tally.accepted == sum(1 for known in books.intent_ids if known)
    assert len(books.undecided()) == tally.accepted - tally.committed
