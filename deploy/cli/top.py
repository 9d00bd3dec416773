"""`tidegate top`: the live view."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from deploy.top.sources import Source


@click.command()
@click.option("--url", help="The API; else that of --data, or of the settings.")
@click.option("--key", help="A gateway's key, for the status; else that of --data.")
@click.option(
    "--metrics",
    multiple=True,
    metavar="URL",
    help="Metrics of another process: governor, worker, exporter, a second API. Repeatable.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between readings.",
)
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--schema", is_flag=True, help="Describe each key of --json, as JSON Schema.")
@data_option
@json_option
def top(
    *,
    url: str | None,
    key: str | None,
    metrics: tuple[str, ...],
    interval: float,
    once: bool,
    schema: bool,
    data: Path | None,
    as_json: bool,
) -> int:
    """Show a deployment live: level, rates, waits, refusals, pipeline, dependencies, campaigns.

    Figures come from /v1/status and from the metrics of each process. `tidegate dev` is found by
    --data; of any other deployment name the API, and with --metrics its other processes. What no
    source tells is a dash, and a source that is away is shown as away.

    Keys: 1 to 5 or tab for the views, s sorts and / filters campaigns, p pauses, + and - set the
    interval, ? explains, q quits. Without a terminal, or with --once or --json, it reads twice,
    prints once and ends; then it exits 3 if no source answers.
    """
    from rich.console import Console

    from deploy.top import figures, live
    from deploy.top.keys import Ui
    from deploy.top.watching import Watch

    if schema:
        show(figures.schema(), "", as_json=True)
        return 0
    console = Console(highlight=False)
    ui = Ui(interval_s=interval)
    with Watch(_sources(data, url, key, metrics), interval) as watch:
        if live.moves(console) and not once and not as_json:
            _end(live.run(watch, console, ui))
            return 0
        seen = live.once(watch)
    if as_json:
        show(seen, "", as_json=True)
    else:
        for line in live.frame(seen, console, ui):
            line.rstrip()
            console.print(line, no_wrap=True, crop=False)
    return 0 if any(one.age_s is not None for one in seen.sources) else faults.UNREACHABLE


def _sources(
    data: Path | None, url: str | None, key: str | None, metrics: tuple[str, ...]
) -> list[Source]:
    """Find who is to be asked."""
    from deploy.embedded.apps import api_url
    from deploy.top.sources import address, of_api

    settings = connection_settings(data)
    named: list[tuple[str, str]] = []
    if data is not None:
        from deploy.embedded import endpoints

        where = endpoints.read(data)
        key, named = key or where.api_key, [*where.metrics.items()]
    try:
        api = url or api_url(settings)
        address(api)
        return of_api(api, key or "", [*named, *((address(one), one) for one in metrics)])
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None


def _end(by: int | None) -> None:
    """End as the signal would have ended us, now that the terminal is given back."""
    if by == signal.SIGINT:
        raise KeyboardInterrupt
    if by is not None:
        signal.signal(by, signal.SIG_DFL)
        os.kill(os.getpid(), by)
