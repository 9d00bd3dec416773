"""Running `tidegate dev --servers-only` as its own process, and looking at what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from deploy.embedded import endpoints, process
from deploy.embedded.endpoints import Endpoints

START_TIMEOUT_S = 60
END_TIMEOUT_S = 20


def command(data: Path | None) -> list[str]:
    """Spell the command; without a data folder it makes a temporary one."""
    line = [sys.executable, "-m", "deploy.cli", "dev", "--servers-only"]
    return line if data is None else [*line, "--data", str(data)]


@contextmanager
def running(
    data: Path, line: Sequence[str] | None = None, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a cluster until it is up; at the end let nothing of it live, however the test went."""
    life = subprocess.Popen(
        list(line or command(data)), env={**os.environ, **environ}, start_new_session=True
    )
    try:
        up = process.until(
            lambda: life.poll() is not None or endpoints_of(data) is not None, START_TIMEOUT_S
        )
        assert up, "not up in time"
        yield life
    finally:
        if life.poll() is None:
            life.send_signal(signal.SIGINT)
            life.wait(END_TIMEOUT_S)


def endpoints_of(data: Path) -> Endpoints | None:
    """Return where the cluster on a folder is; None while it is not up."""
    try:
        return endpoints.read(data)
    except FileNotFoundError:
        return None


def found(data: Path) -> Endpoints:
    """Return where the cluster on a folder is; it must be up."""
    where = endpoints_of(data)
    assert where is not None
    return where


def temporary_data(folder: Path) -> Path:
    """Wait for the temporary data folder that a cluster makes in `folder`, its TMPDIR."""
    process.until(lambda: any(folder.glob("tidegate-*/endpoints.json")), START_TIMEOUT_S)
    (made,) = folder.glob("tidegate-*")
    return made


def nothing_runs_on(data: Path) -> bool:
    """Tell whether every process of the cluster is gone, or goes within the bound."""
    return process.until(lambda: not process.of_cluster(data), END_TIMEOUT_S)


def both_answer(where: Endpoints) -> bool:
    """Tell whether PostgreSQL and Valkey take commands at these addresses."""
    with psycopg.connect(where.postgres) as connection, redis.Redis.from_url(where.valkey) as cache:
        return connection.execute("SELECT 1").fetchall() == [(1,)] and bool(cache.ping())


def modes(folders: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """Return owner and permissions of folders and of all folders above them."""
    every = {above for folder in folders for above in (folder, *folder.parents)}
    stats = [(str(path), path.stat()) for path in sorted(every)]
    return [(path, s.st_mode, s.st_uid, s.st_gid) for path, s in stats]
