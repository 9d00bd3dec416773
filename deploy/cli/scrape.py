"""`tidegate scrape-targets`: tell Prometheus where the processes of an embedded cluster are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from deploy.cli.output import json_option, show
from deploy.cli.target import NoClusterError

_DEFAULT_PATH = "/metrics"


@click.command("scrape-targets")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Data folder of the `tidegate dev` that runs.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, for Prometheus' file_sd_configs. [DATA/scrape-targets.json]",
)
@json_option
def scrape_targets(data: Path, out: Path | None, as_json: bool) -> None:
    """Write the metrics addresses of the cluster that runs on DATA, as Prometheus reads them.

    Prometheus notices a changed file by itself. Another start of the cluster has other ports: write
    the file again.
    """
    from deploy.embedded import endpoints
    from deploy.embedded.folder import write_private

    try:
        metrics = endpoints.read(data).metrics
    except FileNotFoundError as absent:
        msg = f"no cluster runs on {data}; start one with `tidegate dev --data {data}`"
        raise NoClusterError(msg) from absent
    file = out or data / "scrape-targets.json"
    groups = target_groups(metrics)
    write_private(file, msgspec.json.format(msgspec.json.encode(groups), indent=2) + b"\n")
    file.chmod(0o644)  # nothing secret in it, and Prometheus may be another user
    show(
        {"file": str(file), "targets": groups},
        f"{file}: {len(groups)} processes",
        as_json=as_json,
    )


def target_groups(metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return Prometheus' target groups for metrics addresses by process name.

    The job says what a process is, whatever its number: `worker-2` is of `tidegate-worker`.
    """
    return [_group(name, url) for name, url in metrics.items()]


def _group(name: str, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    labels = {"job": f"tidegate-{name.rstrip('0123456789').rstrip('-')}", "instance": name}
    if parts.path != _DEFAULT_PATH:
        labels["__metrics_path__"] = parts.path
    if parts.scheme != "http":
        labels["__scheme__"] = parts.scheme
    return {"targets": [parts.netloc], "labels": labels}
