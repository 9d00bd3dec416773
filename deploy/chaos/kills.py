"""Kills, added up over as many runs as it takes, in a file that a later run goes on from.

Several a second, of processes that have recovered from the last one: forked or started again, and at
work for a while. By the rule of three, N kills without a loss say at 95 % confidence that a kill loses
less than 3 / N. Beside them stands what kills do to a consumer without a journal: see `comparison`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from deploy.chaos import comparison, harness
from deploy.chaos.scenario import Variety, recur
from deploy.chaos.scenarios import SCENARIOS, faults_of
from deploy.chaos.screen import Screen
from deploy.chaos.suite import Worlds, is_whole
from deploy.chaos.verdict import Verdict, remark
from deploy.embedded.folder import write_private

_FILE: Final = "kills.json"
_DURATION_S: Final = 40.0
_RUNS_PER_CLUSTER: Final = 5  # its tables grow with each
_BESIDE_S: Final = 10.0
_RUNS_PER_BESIDE: Final = 2
_CHILD_AGE_S: Final = (0.5, 0.5)  # a fork is at work within a tenth of that
_PARENT_AGE_S: Final = (2.5, 2.5)
_DENSE: Final = replace(
    SCENARIOS["kills"],
    recurring=(
        recur(
            "kill",
            *("worker-child", "worker-child", "api-child"),
            every=(0.15, 0.27),
            amount=_CHILD_AGE_S,
        ),
        recur(
            "kill",
            *("worker", "api", "redispatcher", "governor", "relay", "exporter"),
            every=(1.2, 2.0),
            amount=_PARENT_AGE_S,
        ),
    ),
    variety=Variety(settings=(("TIDEGATE_WORKER__CONCURRENCY", "2"),)),
)


class KillRun(Struct, frozen=True, kw_only=True):
    """One run that counts."""

    seed: int
    kills: int
    receipts: int
    clean: bool
    broken: list[str] = []


class BesideRun(Struct, frozen=True, kw_only=True):
    """One run of the consumer without a journal: messages sent, and what became of them."""

    seed: int
    kills: int
    sent: int
    lost: int
    doubled: int
    parked: int


class Kills(Struct, kw_only=True):
    """What was gathered so far."""

    kills: int = 0
    receipts: int = 0
    violations: int = 0
    runs: list[KillRun] = []
    beside: list[BesideRun] = []

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


def write(folder: Path, kills: Kills) -> None:
    """Keep what was gathered, for a later run to go on from."""
    write_private(folder / _FILE, msgspec.json.format(msgspec.json.encode(kills)) + b"\n")


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
        beside=kills.beside,
    )


def add_beside(kills: Kills, verdict: Verdict) -> Kills:
    """Add a run of the consumer without a journal to what is there."""
    counts = {name: int(count) for name, count in verdict.figures.items()}
    run = BesideRun(seed=verdict.seed, kills=verdict.kills, **counts)
    return replace(kills, beside=[*kills.beside, run])


def lines(kills: Kills) -> Sequence[str]:
    """Say what it all came to."""
    word = "no violation" if kills.clean else f"{kills.violations} VIOLATIONS"
    said = [f"{kills.kills:,} kills in {len(kills.runs)} runs, {kills.receipts:,} receipts: {word}"]
    if kills.clean and kills.kills:
        said.append(
            f"so at 95 % confidence a kill loses less than {3 / kills.kills:.2%} of the time"
        )
    if kills.beside:
        killed = sum(run.kills for run in kills.beside)
        sent = sum(run.sent for run in kills.beside)
        lost = sum(run.lost for run in kills.beside)
        doubled = sum(run.doubled for run in kills.beside)
        said.append(
            f"beside it a kombu consumer without a journal: {killed:,} kills, {sent:,} messages, "
            f"{lost:,} lost, {doubled:,} done twice"
        )
    return said


def gather(count: int, seed: int, folder: Path, screen: Screen) -> Kills:
    """Kill until so many kills stand in the folder's file; return what stands there.

    With every other run comes one beside it, and one in the end if none came. A clean run leaves its
    verdict and its faults; its history is removed, a violated run's is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kills = read(folder)
    with contextlib.closing(Worlds(folder, screen)) as worlds:
        while kills.kills < count:
            number = len(kills.runs)
            screen.begin(f"kills {kills.kills:,} of {count:,}, seed {seed + number}", _DENSE.line)
            run = _run_of(number, seed + number, folder)
            world = worlds.of(_DENSE.variety)
            verdict = harness.perform(run, world, screen)
            kills = add(kills, verdict)
            write(folder, kills)
            if verdict.clean:
                (run.folder / "history.jsonl").unlink()
            screen.done(remark(verdict), clean=verdict.clean)
            used_up = len(kills.runs) % _RUNS_PER_CLUSTER == 0
            if used_up or not verdict.clean or not is_whole(world):
                worlds.close()
            due = len(kills.runs) % _RUNS_PER_BESIDE == 0
            if due or (kills.kills >= count and not kills.beside):
                kills = _beside(kills, seed + number, folder, screen)
    return kills


def _run_of(number: int, seed: int, folder: Path) -> harness.Run:
    return harness.Run(
        scenario=_DENSE,
        seed=seed,
        duration_s=_DURATION_S,
        campaign_id=f"chaos-{number}",
        folder=folder / f"run-{number:04}",
        plan=faults_of(_DENSE, seed, _DURATION_S),
    )


def _beside(kills: Kills, seed: int, folder: Path, screen: Screen) -> Kills:
    screen.begin(f"beside it, seed {seed}", SCENARIOS["plain-kombu"].line)
    evidence = folder / f"beside-{len(kills.beside):04}"
    verdict = comparison.perform(seed, _BESIDE_S, evidence, screen)
    screen.done(remark(verdict), clean=verdict.clean)
    kills = add_beside(kills, verdict)
    write(folder, kills)
    return kills
