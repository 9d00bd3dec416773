"""The suite: scenarios one after another, on a cluster that they share as long as it stays whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from msgspec import Struct

from deploy.chaos import abilities, comparison, harness
from deploy.chaos.mutations import MUTATIONS, Mutation
from deploy.chaos.scenario import Scenario, Variety
from deploy.chaos.scenarios import SCENARIOS, faults_of
from deploy.chaos.screen import Screen
from deploy.chaos.verdict import Report, Verdict, remark, report
from deploy.chaos.world import WORKERS, World
from deploy.embedded.errors import EmbeddedError

_MUTATED_DURATION_S_MAX: Final = 6.5
_MUTATED_DRAIN_S_MAX: Final = 15.0  # what a mutation keeps from recovering is not waited for long
_EVERY_ONE: Final = ("api", "redispatcher", "governor", "relay", "exporter", "postgres", "valkey")


class Wish(Struct, frozen=True, kw_only=True):
    """What is to be run. `duration_s` None: each scenario's own."""

    scenarios: Sequence[Scenario]
    seed: int
    duration_s: float | None
    folder: Path


class Noticed(Struct, frozen=True, kw_only=True):
    """Whether a deliberate breakage turned the verdict red; `took_s` from the start to the verdict."""

    mutation: str
    noticed: bool
    said: str
    verdict: Verdict
    took_s: float = 0.0


def chosen(name: str) -> list[Scenario]:
    """Return the scenarios of a name, or of several with commas; `all` is every one of them.

    Raises KeyError for a name that is none.
    """
    return [*SCENARIOS.values()] if name == "all" else [SCENARIOS[one] for one in name.split(",")]


def run(wish: Wish, screen: Screen) -> Report:
    """Run them all, and judge each. Ctrl-C ends it at once, and leaves nothing running."""
    wish.folder.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    began = monotonic()
    with contextlib.closing(Worlds(wish.folder, screen)) as worlds:
        for scenario in by_variety(wish.scenarios):
            screen.begin(f"{scenario.name}, seed {wish.seed}", scenario.line)
            try:
                verdict = _one(scenario, wish, worlds, screen)
            except EmbeddedError as failed:
                verdict = _not_started(scenario, wish, failed)
            screen.done(remark(verdict), clean=verdict.clean)
            verdicts.append(verdict)
    return report(verdicts, monotonic() - began)


def _one(scenario: Scenario, wish: Wish, worlds: Worlds, screen: Screen) -> Verdict:
    duration_s = wish.duration_s or scenario.duration_s
    why_not = abilities.why_not(scenario.needs)
    folder = wish.folder / scenario.name
    if why_not:
        return Verdict(
            scenario=scenario.name,
            seed=wish.seed,
            duration_s=duration_s,
            clean=False,
            not_run=why_not,
        )
    if scenario.kind == "plain-kombu":
        worlds.close()
        return comparison.perform(wish.seed, duration_s, folder, screen)
    world = worlds.of(scenario.variety)
    one = harness.Run(
        scenario=scenario,
        seed=wish.seed,
        duration_s=duration_s,
        campaign_id=worlds.next_campaign(),
        folder=folder,
        plan=faults_of(scenario, wish.seed, duration_s),
    )
    verdict = harness.perform(one, world, screen)
    if not (verdict.clean and is_whole(world)):
        worlds.close()
    return verdict


def _not_started(scenario: Scenario, wish: Wish, failed: EmbeddedError) -> Verdict:
    return Verdict(
        scenario=scenario.name,
        seed=wish.seed,
        duration_s=wish.duration_s or scenario.duration_s,
        clean=False,
        said=f"the cluster did not start: {failed}",
    )


class Worlds:
    """The world in use, made anew when another variety is asked for."""

    def __init__(self, folder: Path, screen: Screen, mutation: Mutation | None = None) -> None:
        self._folder, self._screen = folder, screen
        self._mutation = mutation
        self._world: World | None = None
        self._made = self._campaigns = 0

    def of(self, variety: Variety) -> World:
        """Return a running world of a variety. Raises EmbeddedError."""
        if self._world is not None and self._world.variety != variety:
            self.close()
        if self._world is None:
            self._made += 1
            folder = self._folder / f"cluster-{self._made}"
            world = World(variety, folder, self._screen.event, self._mutation)
            world.start()
            self._world = world
        return self._world

    def next_campaign(self) -> str:
        """Name a campaign that nobody used."""
        self._campaigns += 1
        return f"chaos-{self._campaigns}"

    def close(self) -> None:
        """Stop what runs. Idempotent."""
        if self._world is not None:
            world, self._world = self._world, None
            world.close()


def mutate(names: Sequence[str], seed: int, folder: Path, screen: Screen) -> list[Noticed]:
    """Run each mutation's scenario on a cluster that it broke, and tell whether it was noticed.

    Raises KeyError for a name that is none.
    """
    noticed = []
    for mutation in [MUTATIONS[name] for name in names]:
        scenario = SCENARIOS[mutation.scenario]
        began = monotonic()
        screen.begin(f"mutation {mutation.name}, seed {seed}", mutation.line)
        room = folder / mutation.name
        with contextlib.closing(Worlds(room, screen, mutation)) as worlds:
            duration_s = min(scenario.duration_s, _MUTATED_DURATION_S_MAX)
            run = harness.Run(
                scenario=scenario,
                seed=seed,
                duration_s=duration_s,
                campaign_id=worlds.next_campaign(),
                folder=room / scenario.name,
                plan=faults_of(scenario, seed, duration_s),
                drain_s_max=_MUTATED_DRAIN_S_MAX,
            )
            verdict = harness.perform(run, worlds.of(scenario.variety), screen)
            took_s = round(monotonic() - began, 1)
        one = judge(mutation, verdict, took_s)
        screen.done(one.said, clean=one.noticed)
        noticed.append(one)
    return noticed


def judge(mutation: Mutation, verdict: Verdict, took_s: float = 0.0) -> Noticed:
    """Tell whether a verdict noticed what the mutation breaks, and not only something else."""
    broken = sorted({finding.breaks for finding in verdict.findings})
    seen = set(broken) & set(mutation.breaks)
    word = (
        f"noticed after {took_s:.0f} s: {', '.join(broken)}"
        if seen
        else f"NOT noticed (broken: {', '.join(broken) or 'nothing'})"
    )
    return Noticed(
        mutation=mutation.name, noticed=bool(seen), said=word, verdict=verdict, took_s=took_s
    )


def is_whole(world: World) -> bool:
    """Tell whether every process that a cluster should have is there, and each what it was."""
    if world.spent:
        return False
    found = world.cluster.processes()
    every = {*_EVERY_ONE, *(["rabbitmq"] if world.variety.rabbitmq else [])}
    every.discard(world.variety.without)
    return all(found.get(role) for role in every) and len(found.get("worker", [])) == WORKERS


def by_variety(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """Bring scenarios of one variety together, in the order of their first."""
    varieties = list(dict.fromkeys(one.variety for one in scenarios))
    yield from sorted(scenarios, key=lambda one: varieties.index(one.variety))
