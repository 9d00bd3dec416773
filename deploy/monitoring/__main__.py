"""`python -m deploy.monitoring`: write rules, alerts and dashboards anew."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.monitoring import objectives
from deploy.monitoring.writing import HERE, files, write


@click.command()
@click.option(
    "--objectives",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=HERE / "objectives.toml",
    help="Your own objectives and links, instead of those that are shipped.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=HERE,
    help="Folder to write to, instead of this package's own.",
)
def main(file: Path, out: Path) -> None:
    """Write rules, alerts and dashboards from the objectives."""
    for path in write(files(objectives.read(file)), out):
        click.echo(path)


main()
