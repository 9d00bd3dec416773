"""`tidegate api`, `worker`, `governor`, `redispatcher`: one process each, as production runs them."""

from __future__ import annotations

import resource
from collections.abc import Mapping

import click

from config import failpoints, logging
from config.settings import Settings, require_secrets
from deploy.cli.target import load_settings

# Connections, each a file: clients that wait, pools, brokers. The usual soft limit is 1,024.
_FILES_WANTED = 65_536


@click.command()
@click.option("--host", help="Address to listen on. [127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 for any free one. [8080]")
@click.option("--processes", type=int, help="Processes that share the port. [1]")
def api(host: str | None, port: int | None, processes: int | None) -> int:
    """Serve the HTTP API until SIGTERM; then drain and end."""
    given = {"api.host": host, "api.port": port, "api.processes": processes}
    settings = _prepare("api", given)
    from producer.http.server import run

    return run(settings)


@click.command()
@click.option("--concurrency", type=int, help="Prefork children, a connection each. [1]")
def worker(concurrency: int | None) -> int:
    """Decide intents until SIGTERM; then finish the batch in hand and end."""
    settings = _prepare("worker", {"worker.concurrency": concurrency})
    from producer.celery_intake import register
    from workers.runtime.worker import run

    return run(settings, [register])


@click.command()
def governor() -> int:
    """Measure the load and tell every gate how much to let in, until SIGTERM.

    Run two: one leads, the other takes over within `governor.lease_ms` of its death. Without any,
    the limits alone hold.
    """
    settings = _prepare("governor", {})
    from workers.runtime.governor import run

    return run(settings)


@click.command()
def redispatcher() -> int:
    """Hint again at intents left behind, expire orders and reconcile the gate, until SIGTERM.

    Any number may run: claims in the database make them safe beside each other.
    """
    settings = _prepare("redispatcher", {})
    from workers.runtime.redispatcher import run

    return run(settings)


@click.command()
def relay() -> int:
    """Deliver events to the gateways' endpoints until SIGTERM; then finish what is being posted.

    Any number may run: an event is leased by one of them at a time.
    """
    settings = _prepare("relay", {})
    from workers.runtime.relay import run

    return run(settings)


@click.command()
@click.option("--port", "port", type=int, help="Serve /metrics on this port; 0: any free one.")
def exporter(port: int | None) -> int:
    """Show Prometheus what the tables say, and that orders go through, until SIGTERM.

    Run one: its series are of the whole deployment, and two would be added up. With
    exporter.heartbeat_api_key it posts an order of its own now and then.
    """
    settings = _prepare("exporter", {"exporter.metrics_port": port})
    from workers.runtime.exporter import run

    return run(settings)


def _prepare(process: str, given: Mapping[str, object]) -> Settings:
    settings = load_settings(given)
    require_secrets(settings)
    failpoints.configure(settings.failpoints, settings.failpoints_enabled)
    logging.configure(
        process, settings.log.level, settings.log.format, pepper=settings.secrets.master
    )
    _raise_file_limit()
    return settings


def _raise_file_limit() -> None:
    """Take what the hard limit allows; `tidegate doctor` says when that is too little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(_FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
