"""Telemetry of the worker: a batch is one event, whatever its size."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from config.sampling import Sample
from workers.runtime.telemetry import IDS_MAX, tell_batch
from workers.service.process_batch import BatchReport

HIGH = [UUID(int=(n << 56) + (1 << 56) - 1) for n in range(50)]  # in every sample
LOW = [UUID(int=n << 56) for n in range(50)]


def told(report: BatchReport, share: float = 0.01) -> list[Any]:
    with capture_logs() as events:
        tell_batch(report, Sample(share))
    return events


def test_a_batch_is_one_event_that_names_the_intents_of_the_sample() -> None:
    """Those whose calls the API tells; a few of them, if there are many."""
    report = BatchReport(claimed=100, sizes=[100], intent_ids=[*LOW, *HIGH])
    report.outcomes = Counter(committed=90, sold_out=10)
    (event,) = told(report)
    assert (event["event"], event["log_level"], event["wide"]) == ("batch", "info", True)
    assert (event["claimed"], event["outcomes"]) == (100, {"committed": 90, "sold_out": 10})
    assert event["intent_ids"] == HIGH[:IDS_MAX]


@pytest.mark.parametrize("trouble", ["contentions", "failures", "quarantined", "suspects"])
def test_what_went_wrong_in_a_batch_is_a_warning(trouble: str) -> None:
    """It was borne, and somebody may want to know."""
    (event,) = told(BatchReport(claimed=1, sizes=[1], **{trouble: 1}))
    assert (event["log_level"], event[trouble]) == ("warning", 1)


def test_a_hint_that_found_nothing_is_no_event() -> None:
    """Most hints of a busy hour are such."""
    assert told(BatchReport()) == []
