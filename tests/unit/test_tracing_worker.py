"""A worker's child: what it takes from a hint, and what it still tells when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from celery import signals

from config.settings import Settings
from config.tracing import Context, begin
from workers.contract.celery_app import make_app
from workers.contract.names import PROCESS_BATCH_TASK
from workers.runtime import worker


class Child:
    """Keeps its hints, and that it was closed."""

    made: list[Child]

    def __init__(self, settings: Settings) -> None:
        self.hints: list[Context | None] = []
        self.closed = False
        self.made.append(self)

    def process(self, hinted: Sequence[UUID], hint: Context | None) -> None:
        self.hints.append(hint)

    def close(self) -> None:
        self.closed = True


def test_a_child_is_told_of_the_hints_place_and_closes_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made by its first hint, after the fork; a header of the broker may be anything."""
    made = Child.made = []
    monkeypatch.setattr(worker, "_Child", Child)
    monkeypatch.setattr(signals.worker_process_shutdown, "receivers", [])
    app = make_app(Settings())
    worker.register_process_batch(app, Settings())
    task = app.tasks[PROCESS_BATCH_TASK]
    assert made == []
    place = begin(7)
    for traceparent in (place.traceparent(), "junk", ["x"], None):
        task.apply(args=([],), headers={"traceparent": traceparent})
    (child,) = made
    assert child.hints == [place, None, None, None]
    signals.worker_process_shutdown.send(sender=None)
    assert child.closed
