"""The first look, run: each question of a runbook put to a deployment, within a time of its own.

Nothing here changes anything: commands are of a list of those that only look, PostgreSQL is asked
as the auditor in read-only transactions, of Valkey only what it tells of itself.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import psycopg
import redis
from msgspec import Struct

import deploy
from config.settings import Settings
from deploy.runbooks import figures
from deploy.runbooks.page import Kind, Step
from workers.contract.gate import open_client
from workers.store.pool import AUDITOR, Bounds, connect

Status = Literal["ran", "not_fine", "unreachable", "not_run"]

# What an operator's command may look at without changing anything.
LOOKING: Final = frozenset(
    {
        ("audit",),
        ("campaign", "list"),
        ("doctor",),
        ("gateway", "list"),
        ("level", "show"),
        ("merchant", "list"),
        ("quarantine", "list"),
        ("webhook", "list"),
    }
)
COMMAND_S: Final = 20.0
AUDIT_S: Final = 60.0  # over a young deployment it is done by then; over an old one it is cut short
STATEMENT_MS: Final = 5_000
HTTP_S: Final = 5.0
ROWS_MAX: Final = 20
TEXT_MAX: Final = 4_000

_EXIT_STATUS: Final[Mapping[int, Status]] = {0: "ran", 3: "unreachable"}
# Of Valkey's INFO what says something here; other sections are shown whole.
_TELLING: Final = {
    "memory": (
        "used_memory_human",
        "used_memory_peak_human",
        "maxmemory_human",
        "maxmemory_policy",
    ),
    "clients": ("connected_clients", "maxclients", "blocked_clients"),
    "persistence": ("loading", "aof_enabled", "aof_last_write_status", "rdb_last_bgsave_status"),
}


class Deployment(Struct, frozen=True, kw_only=True):
    """What is asked. `metrics` maps processes to their metrics pages; `data` is a cluster's folder."""

    settings: Settings
    metrics: Mapping[str, str]
    api: str
    api_key: str = ""
    data: Path | None = None
    config_file: Path | None = None


class Result(Struct, frozen=True):
    """What became of one question. `not_run`: it changes something, or lacks a value."""

    kind: Kind
    asked: str
    status: Status
    output: str
    took_ms: float


def ask(step: Step, deployment: Deployment) -> Result:
    """Put one question; never raises for what the deployment does."""
    began = time.monotonic()
    status, output = _ASKERS[step.kind](step.asked, deployment)
    took_ms = round((time.monotonic() - began) * 1_000, 1)
    return Result(step.kind, step.asked, status, output.rstrip()[:TEXT_MAX], took_ms)


def looks_only(words: list[str]) -> bool:
    """Tell whether a `tidegate` command line (without its first word) changes nothing."""
    return tuple(words[:1]) in LOOKING or tuple(words[:2]) in LOOKING


def _command(asked: str, deployment: Deployment) -> tuple[Status, str]:
    program, *words = shlex.split(asked)
    if program != "tidegate" or not looks_only(words):
        return "not_run", "for you to run"
    given = [] if deployment.data is None else ["--data", str(deployment.data)]
    config = [] if deployment.config_file is None else ["--config", str(deployment.config_file)]
    root = str(Path(deploy.__file__).resolve().parents[1])  # for a checkout that is not installed
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    patience_s = AUDIT_S if words[0] == "audit" else COMMAND_S
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *config, *words, *given],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "unreachable", f"no answer within {patience_s:.0f} s"
    return _EXIT_STATUS.get(done.returncode, "not_fine"), done.stdout


def _statement(asked: str, deployment: Deployment) -> tuple[Status, str]:
    postgres = deployment.settings.postgres
    bounds = Bounds(connect_timeout_s=postgres.connect_timeout_s, statement_timeout_ms=STATEMENT_MS)
    try:
        with connect(postgres.dsn, AUDITOR, bounds, name="runbook") as connection:
            connection.execute("SET default_transaction_read_only = on")
            # The text ships with the package: as trusted as a literal in the code.
            answered = connection.execute(asked)
            columns = [column.name for column in answered.description or ()]
            return "ran", _table(columns, answered.fetchmany(ROWS_MAX + 1))
    except psycopg.errors.QueryCanceled:
        return "unreachable", f"no answer within {STATEMENT_MS / 1_000:.0f} s"
    except psycopg.OperationalError as error:
        return "unreachable", f"cannot reach PostgreSQL: {' '.join(str(error).split())}"
    except psycopg.Error as error:
        return "not_fine", str(error)


def _valkey(asked: str, deployment: Deployment) -> tuple[Status, str]:
    command, *arguments = asked.split()
    valkey = deployment.settings.valkey
    if command != "INFO":
        return "not_run", "for you to run"
    try:
        with open_client(valkey.url, timeout_ms=valkey.timeout_ms) as client:
            told: dict[str, Any] = client.info(*arguments)
    except (redis.RedisError, OSError) as error:
        return "unreachable", f"cannot reach Valkey: {error}"
    names = _TELLING.get(arguments[0], tuple(told)) if arguments else tuple(told)
    return "ran", "\n".join(f"{name}: {told[name]}" for name in names if name in told)


def _call(asked: str, deployment: Deployment) -> tuple[Status, str]:
    path = asked.removeprefix("GET ")
    key = {"Authorization": f"Bearer {deployment.api_key}"} if deployment.api_key else {}
    try:
        status, body = get(deployment.api + path, key)
    except (OSError, HTTPException) as error:
        return "unreachable", f"cannot reach {deployment.api}: {error!r}"
    if status == 401 and not key:
        return "not_run", "needs a gateway's key: --key"
    return "ran" if status < 400 else "not_fine", f"{status}\n{body}"


def _series(asked: str, deployment: Deployment) -> tuple[Status, str]:
    names = asked.split()
    pages, faults = figures.read_pages(deployment.metrics, _page)
    if figures.counts(names):
        time.sleep(figures.APART_S)
        later, _ = figures.read_pages(deployment.metrics, _page)
    else:
        later = pages
    lines = [*faults, *figures.lines(names, pages, later)]
    return "unreachable" if faults and not pages else "ran", "\n".join(lines)


def _page(url: str) -> str:
    status, body = get(url, {})
    if status != 200:
        raise HTTPException(f"answers {status}")
    return body


def get(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Get a page. Not urlopen: that would ask a proxy which the environment names."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=HTTP_S)
    try:
        connection.request(
            "GET", parts.path + (f"?{parts.query}" if parts.query else ""), None, headers
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def _table(columns: list[str], rows: list[tuple[Any, ...]]) -> str:
    shown = [columns, *([_cell(value) for value in row] for row in rows[:ROWS_MAX])]
    widths = [max(len(row[place]) for row in shown) for place in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if not rows:
        lines.append("(no rows)")
    if len(rows) > ROWS_MAX:
        lines.append("…")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


_ASKERS: Final[Mapping[Kind, Callable[[str, Deployment], tuple[Status, str]]]] = {
    "sh": _command,
    "sql": _statement,
    "valkey": _valkey,
    "http": _call,
    "metrics": _series,
}
