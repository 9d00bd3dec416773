"""Where a measurement was made: versions, processor, memory, date, and the code that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import psycopg
import redis
from msgspec import Struct

LIBRARIES = ("celery", "kombu", "psycopg", "uvicorn", "uvloop", "msgspec", "redis")


class Machine(Struct, frozen=True):
    """One machine with what runs on it; `versions` by name."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    versions: Mapping[str, str]
    commit: str  # of the checkout, with a + when it was changed since; empty when nobody knows


def read_machine(dsn: str, valkey_url: str) -> Machine:
    """Ask this machine, and the two servers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    with redis.Redis.from_url(valkey_url) as client:
        valkey = client.info("server").get("valkey_version", "unknown")
    servers = {"PostgreSQL": row[0].split()[0] if row else "unknown", "Valkey": str(valkey)}
    libraries = {name: version(name) for name in LIBRARIES}
    return Machine(
        processor=_field("/proc/cpuinfo", "model name"),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        kernel=f"{platform.system()} {platform.release()}",
        versions={"Python": platform.python_version(), **servers, **libraries},
        commit=_commit(),
    )


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0"


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()
