"""What the gate hears of decided intents, when it can be asked and when it cannot."""

from __future__ import annotations

import itertools

import pytest
from kit import World, comes_true, ids_of, order

from tests.factories import open_gate
from workers.contract.gate import GateUnreachable
from workers.runtime import bootstrap
from workers.service.process_batch import Processor


def test_what_the_gate_did_not_hear_leaves_flight_when_it_answers_without_a_next_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate full of decided intents admits nobody, so no batch may ever come to tell it."""
    gate, batch = open_gate(world.valkey_url), [order() for _ in range(3)]
    away, tries = [True], itertools.count(1)
    tried = [0]
    release = gate.release

    def lose(*_: object) -> None:
        raise GateUnreachable

    def try_release(ids: object) -> None:
        tried[0] = next(tries)
        lose() if away else release(ids)  # type: ignore[arg-type]

    monkeypatch.setattr(gate, "settle", lose)
    monkeypatch.setattr(gate, "release", try_release)
    monkeypatch.setattr(bootstrap, "RESETTLE_S", 0.01)
    world.intake(gate=gate).submit(batch)
    processor = Processor(world.session(), bootstrap.announcer(gate), batch_max=500)
    assert processor.run(ids_of(batch)).outcomes == {"committed": 3}
    assert comes_true(lambda: tried[0] >= 2)
    assert gate.in_flight() == 3
    away.clear()
    assert comes_true(lambda: gate.in_flight() == 0)
