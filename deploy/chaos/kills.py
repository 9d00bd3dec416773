"""Kills, added up over as many runs as it takes, in a file that a later run goes on from.

By the rule of three, N kills without a loss say that a kill loses less than 3 / N at 95 % confidence.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from deploy.chaos import harness
from deploy.chaos.scenarios import SCENARIOS, faults_of
from deploy.chaos.screen import Screen
from deploy.chaos.suite import Worlds, is_whole
from deploy.chaos.verdict import Verdict, remark
from deploy.embedded.folder import write_private

_FILE: Final = "kills.json"
_DURATION_S: Final = 20.0
_RUNS_PER_CLUSTER: Final = 15  # its tables grow with each


class KillRun(Struct, frozen=True, kw_only=True):
    """One run that counts."""

    seed: int
    kills: int
    receipts: int
    clean: bool
    broken: list[str] = []


class Kills(Struct, kw_only=True):
    """What was gathered so far."""

    kills: int = 0
    receipts: int = 0
    violations: int = 0
    runs: list[KillRun] = []

    @property
    def clean(self) -> bool:
        """Whether no run was violated."""
        return self.violations == 0


def read(folder: Path) -> Kills:
    """Read what is there; nothing yet is no kills."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Kills)
    except FileNotFoundError:
        return Kills()


def add(kills: Kills, verdict: Verdict) -> Kills:
    """Add a run to what is there."""
    receipts = int(verdict.figures.get("receipts", 0))
    run = KillRun(
        seed=verdict.seed,
        kills=verdict.kills,
        receipts=receipts,
        clean=verdict.clean,
        broken=[f"{one.breaks} {one.check}: {one.examples[0]}" for one in verdict.findings],
    )
    return Kills(
        kills=kills.kills + run.kills,
        receipts=kills.receipts + receipts,
        violations=kills.violations + len(verdict.findings),
        runs=[*kills.runs, run],
    )


def gather(count: int, seed: int, folder: Path, screen: Screen) -> Kills:
    """Run scenario `kills` until so many kills stand in the folder's file; return what stands there.

    A clean run leaves its verdict and its faults; its history is removed, a violated run's is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenario = SCENARIOS["kills"]
    kills = read(folder)
    with contextlib.closing(Worlds(folder, screen)) as worlds:
        while kills.kills < count:
            number = len(kills.runs)
            screen.begin(f"kills {kills.kills:,} of {count:,}, seed {seed + number}", scenario.line)
            run = harness.Run(
                scenario=scenario,
                seed=seed + number,
                duration_s=_DURATION_S,
                campaign_id=f"chaos-{number}",
                folder=folder / f"run-{number:04}",
                plan=faults_of(scenario, seed + number, _DURATION_S),
            )
            world = worlds.of(scenario.variety)
            verdict = harness.perform(run, world, screen)
            kills = add(kills, verdict)
            write_private(folder / _FILE, msgspec.json.format(msgspec.json.encode(kills)) + b"\n")
            if verdict.clean:
                (run.folder / "history.jsonl").unlink()
            if not verdict.clean or not is_whole(world) or number % _RUNS_PER_CLUSTER == 0:
                worlds.close()
            screen.done(remark(verdict), clean=verdict.clean)
    return kills
