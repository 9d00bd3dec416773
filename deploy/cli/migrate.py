"""`tidegate migrate`."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option


@click.command()
@data_option
@json_option
def migrate(data: Path | None, as_json: bool) -> None:
    """Apply the migrations that the database lacks: forward only, one migrator at a time."""
    settings = connection_settings(data)
    from workers.store import migrate as store

    applied = store.migrate(settings.postgres.dsn)
    text = "\n".join(f"applied {name}" for name in applied) or "nothing to apply"
    show({"applied": applied}, text, as_json=as_json)
