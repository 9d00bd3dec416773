"""`tidegate demo`: the Qwen campaign on this machine, from nothing to the audit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli.output import json_option

if TYPE_CHECKING:
    pass

# A terminal that was closed, and a caller that gave up, stop the demo as Ctrl-C does.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--orders", type=click.IntRange(min=100), default=100_000, show_default=True)
@click.option("--duration", type=click.FloatRange(min=1), default=30, show_default=True)
@click.option("--seed", type=int, help="The same seed sends the same intents.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the servers' data and logs; without it a temporary one.",
)
@click.option("--keep", is_flag=True, help="Keep everything running afterwards, until Ctrl-C.")
@json_option
def demo(
    orders: int, duration: float, seed: int | None, data: Path | None, keep: bool, as_json: bool
) -> int:
    """Start everything, replay nine hours of the Qwen campaign, and prove that it adds up.

    Needs neither Docker nor root, and stops all it started. Exit 0 only if the audit is clean and
    every receipt has exactly one outcome. Ctrl-C stops at any time.
    """
