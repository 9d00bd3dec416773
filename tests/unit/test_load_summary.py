"""The demo's closing words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from deploy.load import summary
from deploy.load.books import Books
from deploy.load.demo import Result
from deploy.load.report import Run, make
from deploy.load.words import plain
from workers.domain.outcome import Refusal
from workers.store.audit import AuditReport, Check


def _result() -> Result:
    books = Books(3)
    for i, outcome in enumerate(("committed", "sold_out")):
        books.due(i, 0.0)
        books.accepted(i, f"id-{i}", 0.01)
        books.decided(i, outcome)
    books.due(2, 0.0)
    books.refused(2, "limit:user", 0.0)
    check = Check("stock_adds_up", "initial = available + reserved + sold", 20, 0, None, 1.0)
    return Result(
        took_s=61.2,
        coupons_in_bulk=97,
        coupons_in_bulk_s=0.1,
        coupons_live=3,
        coupons_live_hold=True,
        load=make(Run("qwen", "open", 1, 2.0, 1.0, 3), books),
        stock={"spring-lantern-cake": (0, 600), "milk-tea-large": (7, 9)},
        books_agree=True,
        audit=AuditReport(checks=[check], in_flight=0, took_ms=1.0),
        clean=True,
    )


def test_the_summary_says_what_came_of_everything_in_plain_words() -> None:
    """Nobody needs to know a reason's name to read it."""
    text = "\n".join(summary.lines(_result()))
    for words in ("3  intents to buy", "2  receipts", "1  orders", "1  sold out",
                  "1  too many orders from one user", "spring-lantern-cake: all 600",
                  "1 of 2 items sold out", "All clean, after 61 seconds."):  # fmt: skip
        assert " ".join(words.split()) in " ".join(text.split())
    assert "NO" not in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"books_agree": False}, "NO the sender's own books"),
        ({"coupons_live_hold": False}, "NO every receipt for a coupon"),
        (
            {"audit": AuditReport([Check("stock_adds_up", "rule", 20, 1, "tea", 1.0)], 0, 1.0)},
            "stock_adds_up: 1 (tea): rule",
        ),
    ],
)
def test_the_summary_names_what_does_not_add_up(fault: dict[str, Any], words: str) -> None:
    """A demo that is not clean says which promise was broken, and where to look."""
    text = "\n".join(summary.lines(replace(_result(), clean=False, **fault)))
    assert words in " ".join(text.split())
    assert "NOT clean" in text


@pytest.mark.parametrize("reason", [refusal.value for refusal in Refusal])
def test_every_refusal_has_plain_words(reason: str) -> None:
    """A reason that is added without words for it fails here."""
    assert plain(reason) != reason.replace("_", " ") or reason == "sold_out"
