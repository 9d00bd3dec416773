"""What the nemesis does to processes: to the planned victim only, and undone in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.chaos.harm import KINDS
from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.nemesis import Nemesis
from deploy.chaos.plan import Fault
from deploy.embedded import process

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
SOON_S = 10.0


class Sleepers:
    """A world of three processes under one role, which do nothing and do not end when asked to."""

    def __init__(self) -> None:
        self.lives = [
            subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
            for _ in range(3)
        ]
        for life in self.lives:
            assert life.stdout is not None
            life.stdout.readline()

    def pids(self, role: str) -> list[int]:
        return [one.pid for one in self.lives if one.poll() is None] if role == "worker" else []

    def alive(self) -> list[bool]:
        return [one.poll() is None for one in self.lives]

    def stopped(self) -> list[bool]:
        return [_state(one.pid) == "T" for one in self.lives]


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2 :].split()[0]


@pytest.fixture
def world() -> Iterator[Any]:
    sleepers = Sleepers()
    yield sleepers
    for life in sleepers.lives:
        life.kill()
        life.communicate()


def fault(kind: str, **more: Any) -> Fault:
    return Fault(**{"at_s": 0.0, "kind": kind, "target": "worker", **more})


def test_a_kill_takes_the_picked_one_and_no_other(world: Any) -> None:
    with KINDS["kill"](world, fault("kill", pick=0.5)) as said:
        assert str(world.lives[1].pid) in said
    assert process.until(lambda: world.alive() == [True, False, True], SOON_S)


def test_a_kill_can_spare_who_has_not_lived_for_long(world: Any) -> None:
    with pytest.raises(NotDoneError), KINDS["kill"](world, fault("kill", amount=3_600)):
        pass
    assert process.until(lambda: process.age_s(world.lives[0].pid) > 0.1, SOON_S)
    with KINDS["kill"](world, fault("kill", amount=0.1)):
        assert process.until(lambda: world.alive() == [False, True, True], SOON_S)


def test_who_ignores_being_asked_to_end_is_killed_at_the_end_of_the_fault(world: Any) -> None:
    with KINDS["term"](world, fault("term")):
        assert world.alive() == [True] * 3
    assert process.until(lambda: world.alive() == [False, True, True], SOON_S)


def test_what_was_frozen_goes_on(world: Any) -> None:
    with KINDS["freeze"](world, fault("freeze", pick=0.9)):
        assert process.until(lambda: world.stopped() == [False, False, True], SOON_S)
    assert process.until(lambda: world.stopped() == [False] * 3, SOON_S)


def test_who_is_to_be_away_is_killed_whenever_he_is_back(world: Any) -> None:
    with KINDS["away"](world, fault("away")):
        assert process.until(lambda: world.alive() == [False] * 3, SOON_S)


@pytest.mark.parametrize("kind", ["kill", "term", "freeze"])
def test_where_nobody_runs_nothing_is_done(world: Any, kind: str) -> None:
    with pytest.raises(NotDoneError), KINDS[kind](world, fault(kind, target="relay")):
        pass


def test_healing_undoes_what_is_not_over_and_does_nothing_more(world: Any, tmp_path: Path) -> None:
    plan = [
        fault("freeze", for_s=60.0),
        fault("kill", target="relay", at_s=0.05),
        fault("kill", at_s=60.0, pick=0.9),
    ]
    nemesis = Nemesis(world, plan, tmp_path / "faults.jsonl")
    nemesis.start()
    assert process.until(lambda: len(nemesis.done) == 1 and world.stopped()[0], SOON_S)
    assert nemesis.active
    nemesis.heal()
    assert process.until(lambda: world.stopped() == [False] * 3, SOON_S)
    assert world.alive() == [True] * 3
    log = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [(row["fault"]["kind"], row["done"]) for row in log] == [
        ("kill", False),
        ("freeze", True),
    ]
    assert nemesis.counts == {"freeze": 1}


def test_what_goes_wrong_in_the_nemesis_is_raised_and_all_is_undone(
    world: Any, tmp_path: Path
) -> None:
    """A bug of the harness is no verdict."""
    broken = SimpleNamespace(pids=world.pids)  # has no proxies
    plan = [fault("freeze", for_s=60.0), fault("net-cut", at_s=0.05, target="postgres")]
    nemesis = Nemesis(broken, plan, tmp_path / "faults.jsonl")  # type: ignore[arg-type]
    nemesis.start()
    assert process.until(lambda: nemesis.failure is not None, SOON_S)
    with pytest.raises(AttributeError):
        nemesis.heal()
    assert process.until(lambda: world.stopped() == [False] * 3, SOON_S)
