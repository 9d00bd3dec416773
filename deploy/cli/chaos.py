"""`tidegate chaos`: faults against a cluster of its own, then the verdict."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from config import logging
from deploy.cli import faults
from deploy.cli.levers import Duration
from deploy.cli.output import json_option, show

if TYPE_CHECKING:
    from deploy.chaos.screen import Screen
    from deploy.chaos.verdict import Report

# A terminal that was closed, and a caller that gave up, stop it as Ctrl-C does.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEAST = timedelta(seconds=2)  # the load has to begin


class Lasting(Duration):
    """A duration; a bare number is of seconds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read it, or fail with how it is written."""
        bare = isinstance(value, str) and value.isdigit()
        lasting = super().convert(f"{value}s" if bare else value, param, ctx)
        if lasting < _LEAST:
            self.fail(f"{value} is shorter than {_LEAST.seconds}s", param, ctx)
        return lasting


@click.command()
@click.option("--scenario", "name", help="A scenario's name, several with commas, or `all`.")
@click.option(
    "--list", "listed", is_flag=True, help="Say every scenario, and whether it runs here."
)
@click.option("--seed", type=int, help="The same seed does the same faults at the same times.")
@click.option(
    "--duration",
    type=Lasting(),
    help="Of the faults, 12s or 30m; recovery comes after. [each scenario's own]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the evidence, kept: histories, faults, verdicts, logs. [a temporary one]",
)
@click.option(
    "--kills",
    type=click.IntRange(min=1),
    help="With `--scenario kills --data`: go on until so many kills stand in the folder's file.",
)
@click.option(
    "--mutation",
    help="Break a promise on purpose, or `all` of them in turn: fine if the verdict notices.",
)
@json_option
def chaos(
    *,
    name: str | None,
    listed: bool,
    seed: int | None,
    duration: timedelta | None,
    data: Path | None,
    kills: int | None,
    mutation: str | None,
    as_json: bool,
) -> int:
    """Break a cluster of its own in planned ways under load; compare what was told with what is.

    Exit 0 when every scenario ran and is clean, 1 on any violation, 3 when something could not run
    here for want of root, of a compiler or the like.
    """
    if listed:
        return _list(as_json=as_json)
    if (name is None) == (mutation is None):
        raise click.UsageError("give --scenario NAME or `all`, --mutation NAME or `all`, or --list")
    if kills is not None and (name != "kills" or data is None):
        raise click.UsageError("--kills needs `--scenario kills` and --data")
    _check(name, mutation)
    logging.configure("tidegate", "error", "text", to="stderr")  # what is away is away on purpose
    seed = random.getrandbits(32) if seed is None else seed
    folder = (data or Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))).expanduser().resolve()
    if mutation is not None:
        return _mutate(mutation, seed, folder, as_json=as_json)
    if kills is not None:
        return _gather_kills(kills, seed, folder, as_json=as_json)
    duration_s = None if duration is None else duration.total_seconds()
    return _run(name or "", seed, duration_s, folder, as_json=as_json)


def _check(name: str | None, mutation: str | None) -> None:
    """Refuse names that nobody knows, before anything is made."""
    from deploy.chaos.mutations import MUTATIONS
    from deploy.chaos.scenario import ALL
    from deploy.chaos.scenarios import SCENARIOS

    for one in (name or ALL).split(","):
        if one not in (ALL, *SCENARIOS):
            raise click.UsageError(f"no scenario is called {one!r}; see `tidegate chaos --list`")
    if mutation not in (None, ALL, *MUTATIONS):
        raise click.UsageError(f"no mutation is called {mutation!r}; known: {', '.join(MUTATIONS)}")


def _run(name: str, seed: int, duration_s: float | None, folder: Path, *, as_json: bool) -> int:
    from deploy.chaos import suite, verdict

    scenarios = suite.chosen(name)
    wish = suite.Wish(scenarios=scenarios, seed=seed, duration_s=duration_s, folder=folder)
    with _shown(len(scenarios), folder, as_json=as_json) as shown:
        result = suite.run(wish, shown)
    text = [line for one in result.verdicts for line in verdict.lines(one)]
    show(result, "\n".join(["", *text, "", *verdict.summary(result)]), as_json=as_json)
    return _exit_code(result)


def _exit_code(result: Report) -> int:
    if not result.clean:
        return faults.NOT_FINE
    return 0 if result.complete else faults.UNREACHABLE


def _mutate(name: str, seed: int, folder: Path, *, as_json: bool) -> int:
    from deploy.chaos import suite
    from deploy.chaos.mutations import MUTATIONS

    names = list(MUTATIONS) if name == "all" else [name]
    with _shown(len(names), folder, as_json=as_json) as shown:
        noticed = suite.mutate(names, seed, folder, shown)
    width = max(map(len, names))
    text = "\n".join(f"{one.mutation:<{width}}  {one.said}" for one in noticed)
    show(noticed, f"\n{text}\nevidence: {folder}", as_json=as_json)
    return 0 if all(one.noticed for one in noticed) else faults.NOT_FINE


def _gather_kills(count: int, seed: int, folder: Path, *, as_json: bool) -> int:
    from deploy.chaos import kills

    with _shown(None, folder, as_json=as_json) as shown:
        result = kills.gather(count, seed, folder, shown)
    show(result, "\n".join(["", *kills.lines(result), f"evidence: {folder}"]), as_json=as_json)
    return 0 if result.clean else faults.NOT_FINE


def _list(*, as_json: bool) -> int:
    from deploy.chaos import abilities
    from deploy.chaos.scenarios import SCENARIOS

    rows = [
        {
            "scenario": one.name,
            "line": one.line,
            "anchor": one.anchor,
            "attacks": list(one.attacks),
            "not_run_here": abilities.why_not(one.needs),
        }
        for one in SCENARIOS.values()
    ]
    width = max(len(one) for one in SCENARIOS)
    lines = []
    for one in SCENARIOS.values():
        why = abilities.why_not(one.needs)
        lines.append(f"{one.name:<{width}}  {one.line}")
        lines.append(
            f"{'':<{width}}  attacks {' '.join(one.attacks)} ({one.anchor})"
            + (f"; not run here: {why}" if why else "")
        )
    show(rows, "\n".join(lines), as_json=as_json)
    return 0


class _Stop:
    """A signal to stop: raised where it finds us, and noted.

    What is raised in a destructor or in a callback is lost there; `heed` raises it again.
    """

    def __init__(self) -> None:
        self._asked = False

    def heed(self) -> None:
        """Stop, if we were asked to."""
        if self._asked:
            raise KeyboardInterrupt

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def _shown(scenarios: int | None, folder: Path, *, as_json: bool) -> Iterator[Screen]:
    """Show a run, and let signals that end a process end it as Ctrl-C does: with everything stopped.

    What was gathered until then stays, and where that is is said.
    """
    from deploy.chaos import screen

    stop = _Stop()
    shown = screen.choose(scenarios, sys.stderr if as_json else sys.stdout)
    earlier = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        with contextlib.closing(shown):
            yield screen.Heeding(shown, stop.heed)
    except KeyboardInterrupt:
        click.echo(f"stopped; evidence so far: {folder}", err=True)
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
