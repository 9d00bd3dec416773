"""The whole pipeline in virtual time: a few hundred seeds each time, and what they would notice.

A failure names its seed, and the command that replays it. More of them, thousands a minute:

    PYTHONPATH=. python tests/simulation/pipeline.py 1 --count 10000
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pipeline
import pytest
from pipeline import Pipeline, faults_of

from producer import intake
from workers.contract import gate_memory
from workers.domain import decide
from workers.service.process_batch import BatchReport, Processor
from workers.service.redispatch import Redispatch
from workers.store.session import BatchSession

SEEDS = 100
FOUND_WITHIN = 80  # seeds: what is broken shows at once, or the laws are too weak


def test_whatever_fails_no_receipt_is_lost_doubled_or_told_falsely() -> None:
    """Processes die and pause, hints are lost, doubled and late, both servers forget or go away."""
    assert [fault for seed in range(SEEDS) for fault in faults_of(seed)] == []


def test_a_seed_tells_the_same_story_each_time() -> None:
    """Step by step, to the last word."""

    def story(seed: int) -> list[str]:
        told: list[str] = []
        Pipeline(seed, told.append).run()
        return told

    for seed in (3, 4):
        first = story(seed)
        assert len(first) > 20
        assert story(seed) == first


def _nothing(*_: Any, **__: Any) -> None:
    return None


BREAKAGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "nobody redispatches": lambda patch: patch.setattr(Redispatch, "hint", _nothing),
    "a refusal is not looked up in the journal": lambda patch: patch.setattr(
        intake.Intake, "_look_up", _nothing
    ),
    "stock is not looked at": lambda patch: patch.setattr(decide, "_shortage", _nothing),
    "what died with a worker is not remembered": lambda patch: patch.setattr(
        BatchSession, "record_claim", lambda *_: {}
    ),
    "who fails takes its batch along": lambda patch: patch.setattr(Processor, "_bisect", _nothing),
    "what is stale stays in flight": lambda patch: patch.setattr(
        gate_memory.Memory, "_scan", lambda self, is_open, *_: (set(is_open), set())
    ),
    "nobody finishes a reconciliation": lambda patch: patch.setattr(
        pipeline.TwinGate, "reconcile", _nothing
    ),
    "outcomes are told before they are committed": lambda patch: patch.setattr(
        Processor, "_commit", _told_first(Processor._commit)
    ),
}


def _told_first(commit: Callable[..., None]) -> Callable[..., None]:
    def told_first(
        self: Any, batch_id: Any, outcomes: Any, moved: Any, at: Any, known: Any
    ) -> None:
        self._tell(outcomes, at, BatchReport())
        commit(self, batch_id, outcomes, moved, at, known)

    return told_first


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_rule_that_is_broken_shows(breakage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these turns some seed red."""
    BREAKAGES[breakage](monkeypatch)
    assert any(faults_of(seed) for seed in range(FOUND_WITHIN))
