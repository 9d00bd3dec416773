"""Which open intents a claim finds: the oldest first, and none for ever out of sight."""

from __future__ import annotations

import pytest
from kit import World, comes_true, ids_of, order

from workers.store import session


def test_an_intent_older_than_the_last_claim_is_found_after_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim looks on from where the last one found, and from the beginning every so often."""
    monkeypatch.setattr(session, "LOOK_BACK_S", 0.3)
    late, early = order("u-late"), order("u-early")  # the first id is the older one
    intake, processor = world.intake(), world.processor()
    intake.submit([early])
    assert processor.run(ids_of([early])).claimed == 1
    intake.submit([late])
    assert processor.run(()).claimed == 0
    assert comes_true(lambda: processor.run(()).claimed == 1)


def test_a_hint_finds_its_intents_wherever_they_are(world: World) -> None:
    """Looking on from the last claim is for those whom nobody named."""
    late, early = order("u-late"), order("u-early")
    intake, processor = world.intake(), world.processor()
    intake.submit([early])
    assert processor.run(ids_of([early])).claimed == 1
    intake.submit([late])
    assert processor.run(ids_of([late])).claimed == 1
