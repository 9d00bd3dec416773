"""Tidegate's processes as a deployment starts them, each by settings of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from http_kit import ORDER, add_gateway
from kit import World, comes_true

from config.settings import Api, Broker, Postgres, Secrets, Settings, Valkey, to_environ
from deploy.embedded.ports import free_port
from tests.factories import MASTER

ROLES = ("governor", "redispatcher", "api", "worker", "relay", "exporter")


class Deployment:
    """Its API, and what its processes said."""

    def __init__(self, port: int, metrics_port: int, key: str, logs: Path) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )
        self._metrics_port = metrics_port
        self._logs = logs

    def post(self, user: str, **headers: str) -> httpx.Response:
        """Post an order of a user; its key is the user's name."""
        order = {**ORDER, "user_id": user}
        return self._client.post(
            "/v1/intents", json=order, headers={"idempotency-key": user, **headers}
        )

    def ready(self) -> bool:
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def exported(self, series: str) -> bool:
        """Whether the exporter shows a series."""
        try:
            url = f"http://127.0.0.1:{self._metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=5) as reply:
                return series in reply.read().decode()
        except OSError:
            return False

    def told(self) -> str:
        """What the processes wrote, the end of each."""
        ends = [
            f"== {path.name}\n" + "\n".join(path.read_text().splitlines()[-12:])
            for path in sorted(self._logs.glob("*.log"))
        ]
        return "\n".join(ends)

    def close(self) -> None:
        self._client.close()


def settings_of(dsn: str, valkey_url: str, port: int) -> Settings:
    return Settings(
        api=Api(port=port),
        postgres=Postgres(dsn=dsn),
        valkey=Valkey(url=valkey_url),
        broker=Broker(publish_timeout_ms=1_000),
        secrets=Secrets(master=MASTER),
    )


@contextmanager
def running(
    world: World, valkey_urls: Mapping[str, str], logs: Path, *, dsn: str | None = None
) -> Iterator[Deployment]:
    """Run one process of each kind; who has no URL among `valkey_urls` reaches no Valkey."""
    port, metrics_port = free_port(), free_port()
    deployment = Deployment(port, metrics_port, add_gateway(world.dsn), logs)
    lives: list[subprocess.Popen[Any]] = []
    try:
        for role in ROLES:
            url = valkey_urls.get(role, "redis://127.0.0.1:1/0")
            environ = to_environ(settings_of(dsn or world.dsn, url, port))
            environ["TIDEGATE_EXPORTER__METRICS_PORT"] = str(metrics_port)
            with (logs / f"{role}.log").open("wb") as out:
                lives.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "deploy.cli", role],
                        env={**os.environ, **environ},
                        stdout=out,
                        stderr=out,
                    )
                )
        assert comes_true(deployment.ready, 30), deployment.told()
        yield deployment
    finally:
        deployment.close()
        for life in lives:
            life.send_signal(signal.SIGTERM)
        for life in lives:
            try:
                life.wait(20)
            except subprocess.TimeoutExpired:
                life.kill()
                life.wait()
