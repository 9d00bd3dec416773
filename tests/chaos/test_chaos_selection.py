"""A short selection of `tidegate chaos`: the whole of it takes many minutes, and runs by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from deploy.chaos import harness, history, suite
from deploy.chaos.plan import Fault
from deploy.chaos.scenarios import SCENARIOS, faults_of
from deploy.chaos.screen import PlainScreen
from deploy.chaos.suite import Worlds
from deploy.chaos.world import WORKERS
from deploy.cli.chaos import chaos
from deploy.cli.target import Invocation
from deploy.embedded import process

SEED = 20260206
SHORT_S = 5.0
REPLACED_TIMES = 4
STOPPED = 130  # what a shell calls an end by Ctrl-C
# One of each kind that shares the usual cluster; `tidegate chaos --list` names them all.
SELECTION = ("kills", "postgres-kills", "lost-hints", "sell-out")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    folder = tmp_path_factory.mktemp("chaos")
    with closing(Worlds(folder, PlainScreen(StringIO(), 1))) as worlds:
        yield worlds


@pytest.mark.parametrize("name", SELECTION)
def test_every_promise_holds_under(name: str, worlds: Worlds, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    run = harness.Run(
        scenario=scenario,
        seed=SEED,
        duration_s=SHORT_S,
        campaign_id=worlds.next_campaign(),
        folder=tmp_path,
        plan=faults_of(scenario, SEED, SHORT_S),
    )
    verdict = harness.perform(run, worlds.of(scenario.variety), PlainScreen(StringIO(), 1))
    assert verdict.findings == []
    assert verdict.figures["receipts"] > 50
    assert sum(verdict.faults.values()) > 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "history.jsonl",
        "faults.jsonl",
        "samples.jsonl",
        "verdict.json",
    }


def test_a_worker_that_loses_its_child_has_another_within_two_seconds(worlds: Worlds) -> None:
    """Celery by itself looks every 5 s; a child killed for its memory is all that a worker has."""
    world = worlds.of(SCENARIOS["kills"].variety)
    began = time.monotonic()
    for _ in range(REPLACED_TIMES):
        victim = world.pids("worker-child")[0]
        os.kill(victim, signal.SIGKILL)
        there = process.until(
            lambda gone=victim: len({*world.pids("worker-child")} - {gone}) == WORKERS, 20
        )
        assert there
    assert time.monotonic() - began < 2 * REPLACED_TIMES


def test_a_promise_that_is_broken_on_purpose_is_noticed(tmp_path: Path) -> None:
    """Two at once would hide each other: receipts without a journal row are the worst."""
    (noticed,) = suite.mutate(["receipt-before-commit"], SEED, tmp_path, PlainScreen(StringIO(), 1))
    assert noticed.noticed, noticed.said
    assert not noticed.verdict.clean


def test_the_command_runs_a_scenario_and_leaves_its_evidence(tmp_path: Path) -> None:
    """Exit 0 only if it is clean; the same seed again does the same faults at the same times."""
    line = ["chaos", "--scenario", "valkey-forgets", "--duration", "3", "--json"]
    line += ["--seed", str(SEED), "--data", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *line],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    (verdict,) = json.loads(ran.stdout)["verdicts"]
    assert (verdict["clean"], verdict["seed"]) == (True, SEED)
    planned = faults_of(SCENARIOS["valkey-forgets"], SEED, 3)
    log = (tmp_path / "valkey-forgets" / "faults.jsonl").read_text().splitlines()
    done = [msgspec.convert(json.loads(row)["fault"], Fault) for row in log]
    assert sorted(done, key=repr) == sorted(planned, key=repr)
    assert (tmp_path / "cluster-1" / "logs" / "worker-1.log").exists()


def test_ctrl_c_ends_it_at_once_and_keeps_what_was_gathered(tmp_path: Path) -> None:
    """Nothing runs on; calls and faults until then stay, and the logs with them."""
    line = ["chaos", "--scenario", "kills", "--duration", "600", "--data", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        while "killed " not in (said := run.stdout.readline()):
            assert said, "it ended before its first fault"
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == STOPPED
    assert errors.strip() == f"stopped; evidence so far: {tmp_path}"
    assert any(entry.phase == "ok" for entry in history.read(tmp_path / "kills" / "history.jsonl"))
    assert (tmp_path / "kills" / "faults.jsonl").read_text()
    assert (tmp_path / "kills" / "samples.jsonl").exists()
    assert (tmp_path / "cluster-1" / "logs" / "worker-1.log").exists()
    assert not process.of_cluster(tmp_path / "cluster-1" / "data")


def test_the_list_names_every_scenario_with_what_it_attacks() -> None:
    told = CliRunner().invoke(chaos, ["--list", "--json"], obj=Invocation(), standalone_mode=False)
    rows = json.loads(told.output)
    assert [row["scenario"] for row in rows] == list(SCENARIOS)
    assert all(row["attacks"] and row["line"] for row in rows)
