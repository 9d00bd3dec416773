"""Tidegate's own processes in an embedded cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import deploy
from config.settings import Settings, to_environ
from deploy.embedded.child import Child
from deploy.embedded.ports import free_port

# Where `deploy` is imported from, for children of a checkout that is not installed.
_ROOT = Path(deploy.__file__).resolve().parents[1]
# What a stop takes beyond the drain: closing pools, writing the last log lines.
_CLOSING_S = 15.0
_WORKER_STOP_S = 30.0  # a warm shutdown finishes the batch in hand
_LOOP_STOP_S = 10.0
_RELAY_STOP_S = 15.0  # posts under way end within their deadline
_LOOK_TIMEOUT_S = 1.0
# Under which role the forks of a process are listed.
_FORKS = {"api": "api-child", "worker": "worker-child"}


@dataclass(frozen=True)
class Apps:
    """The children to be started, and where each shows its metrics."""

    children: list[Child]
    metrics: dict[str, str]


def describe(
    settings: Settings,
    workers: int,
    environ: Mapping[str, str],
    extra: Mapping[str, str],
    folder: Path,
    heartbeat_key: str = "",
) -> Apps:
    """Lay out the API, `workers` worker processes, and one of each of the others.

    `environ` is every child's; `extra` holds settings (`TIDEGATE_…`) that win over `settings`. With
    `heartbeat_key` the exporter posts orders of its own.
    """
    base = _settings_environ(settings, extra) | {"PYTHONPATH": _python_path(environ)}
    url = api_url(settings)
    metrics: dict[str, str] = {}

    def child(name: str, role: str, stop_s: float, **more: str) -> Child:
        return Child(
            name=name,
            role=role,
            program=(sys.executable, "-m", "deploy.cli", role),
            environ={**environ, **base, **more},
            folder=folder,
            ready=_answers(f"{url}/readyz") if role == "api" else _at_once,
            stop_timeout_s=stop_s,
            forks_role=_FORKS.get(role),
        )

    def measured(name: str, role: str, stop_s: float, **more: str) -> Child:
        port = free_port()
        metrics[name] = f"http://127.0.0.1:{port}/metrics"
        more[f"TIDEGATE_{role.upper()}__METRICS_PORT"] = str(port)
        return child(name, role, stop_s, **more)

    heartbeat = {
        "TIDEGATE_EXPORTER__HEARTBEAT_URL": url,
        "TIDEGATE_EXPORTER__HEARTBEAT_API_KEY": heartbeat_key,
    }
    children = [
        measured("api", "api", settings.api.drain_timeout_s + _CLOSING_S),
        measured("redispatcher", "redispatcher", _LOOP_STOP_S),
        measured("governor", "governor", _LOOP_STOP_S),
        measured("relay", "relay", _RELAY_STOP_S),
        measured("exporter", "exporter", _LOOP_STOP_S, **heartbeat),
        *[measured(f"worker-{i}", "worker", _WORKER_STOP_S) for i in range(1, workers + 1)],
    ]
    return Apps(children, metrics)


def api_url(settings: Settings) -> str:
    """Return where the API is reached from this machine."""
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read here, not bound
    host = every.get(settings.api.host, settings.api.host)
    return (
        f"http://[{host}]:{settings.api.port}"
        if ":" in host
        else f"http://{host}:{settings.api.port}"
    )


def _settings_environ(settings: Settings, extra: Mapping[str, str]) -> dict[str, str]:
    """Say the settings, `extra` winning; a variable and its `_FILE` form exclude each other."""
    plain = to_environ(settings)
    for name in extra:
        plain.pop(name.removesuffix("_FILE"), None)
    return {**plain, **extra}


def _python_path(environ: Mapping[str, str]) -> str:
    return ":".join(filter(None, [str(_ROOT), environ.get("PYTHONPATH", "")]))


def _at_once() -> bool:
    return True


def _answers(url: str) -> Callable[[], bool]:
    # Not urlopen: it would ask a proxy that the environment names.
    parts = urlsplit(url)

    def answers() -> bool:
        asked = HTTPConnection(parts.hostname or "", parts.port, timeout=_LOOK_TIMEOUT_S)
        try:
            asked.request("GET", parts.path)
            return asked.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            asked.close()

    return answers
