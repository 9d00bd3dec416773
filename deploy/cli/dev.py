"""`tidegate dev`: everything on this machine."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from deploy.cli.target import load_settings

if TYPE_CHECKING:
    from deploy.embedded.cluster import Cluster

_GLANCE_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the API.")
@click.option("--port", default=8080, show_default=True, help="Port of the API; 0 for a free one.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps everything; without it a temporary one, removed at the end.",
)
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("--api-processes", default=1, show_default=True, help="API processes.")
@click.option(
    "--campaign",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Campaign file to apply; without it a small one that is always open.",
)
@click.option("--servers-only", is_flag=True, help="PostgreSQL and Valkey, and nothing of ours.")
def dev(
    host: str,
    port: int,
    data: Path | None,
    workers: int,
    api_processes: int,
    campaign: Path | None,
    servers_only: bool,
) -> None:
    """Start servers, migrations, campaign and all processes on this machine, for development.

    Needs neither Docker nor root. A process that dies is started again. Writes DATA/endpoints.json;
    logs are in DATA/logs. Ctrl-C drains and stops; a second Ctrl-C hurries.
    """
    from deploy.embedded.cluster import DEV_CAMPAIGN, Cluster

    cluster = Cluster(
        data,
        api_processes=api_processes,
        workers=workers,
        host=host,
        port=port,
        campaign=campaign or DEV_CAMPAIGN,
        settings=load_settings(),
        servers_only=servers_only,
        heartbeat=True,
        on_event=lambda sentence: click.echo(f"* {sentence}", err=True),
    )
    with _stop_signals(cluster.hasten) as stop:
        started_at = time.monotonic()
        cluster.start()
        stop.serving = True  # its addresses are written: from here on a signal is an ordinary end
        try:
            took_s = time.monotonic() - started_at
            click.echo(_banner(cluster, campaign or DEV_CAMPAIGN, data is None, took_s))
            stop.wait()
            click.echo("\nDraining; Ctrl-C again to hurry.", err=True)
        finally:
            cluster.stop()


class _Stop:
    """What a stop signal means: first an end of starting or serving, then haste."""

    def __init__(self, hasten: Callable[[], None]) -> None:
        self._hasten = hasten
        self._asked = False
        self.serving = False

    def wait(self) -> None:
        """Serve until a signal comes."""
        while not self._asked:  # no lock, which the handler might find taken by its own thread
            time.sleep(_GLANCE_S)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._hasten()
            return
        self._asked = True
        if not self.serving:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _stop_signals(hasten: Callable[[], None]) -> Iterator[_Stop]:
    stop = _Stop(hasten)
    earlier = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _banner(cluster: Cluster, campaign: Path, temporary: bool, took_s: float) -> str:
    where = cluster.endpoints()
    kept = "temporary, removed at the end" if temporary else "kept"
    api = [
        f"  API         {where.api}",
        f"  console     {where.api}/console",
        f"  key         {where.api_key}   (for both)",
    ]
    api = api if where.api else []
    curl = ["", *_first_intent(where.api, where.api_key, campaign)] if where.api else []
    lines = [
        f"Tidegate runs (up in {took_s:.1f} s). For development: one machine, one database owner.",
        "",
        *api,
        f"  PostgreSQL  {where.postgres}",
        f"  Valkey      {where.valkey}",
        *(f"  metrics     {name}: {url}" for name, url in where.metrics.items()),
        f"  data        {cluster.data}   ({kept}; logs/, endpoints.json)",
        *curl,
        "",
        "Ctrl-C drains and stops.",
    ]
    return "\n".join(lines)


def _first_intent(api: str, api_key: str, campaign: Path) -> list[str]:
    """Spell a curl line that buys the campaign's first item."""
    document = tomllib.loads(campaign.read_text(encoding="utf-8"))
    intent = {
        "user_id": "u-1",
        "campaign_id": document["campaign"]["id"],
        "lines": [{"sku": document["items"][0]["sku"], "quantity": 1}],
    }
    return [
        f"  curl -s {api}/v1/intents -H 'Authorization: Bearer {api_key}' \\",
        "    -H 'Content-Type: application/json' -H 'Idempotency-Key: 1' -H 'Prefer: wait=5' \\",
        f"    -d '{json.dumps(intent)}'",
    ]
