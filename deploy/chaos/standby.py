"""Standbys: a second server that follows the first through a link of ours, and may take over.

The link is a proxy: what is done to its weather makes the standby fall behind. Whoever takes over is
asked by everybody from then on, as behind an address that moves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, LiteralString, Protocol
from urllib.parse import urlsplit

import redis

from deploy.chaos.proxy import Proxy
from deploy.embedded import process
from deploy.embedded.child import Child
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.ports import free_port
from deploy.embedded.postgres import PostgresServer, _program
from deploy.embedded.valkey import ValkeyServer
from workers.store.pool import OWNER, Bounds, Connection, connect
from workers.store.sql import queries

_SQL: Final = queries("chaos")
_COPY_S: Final = 60
_FOLLOW_S: Final = 20.0
_TIMEOUT_S: Final = 3.0
_BOUNDS: Final = Bounds(statement_timeout_ms=25_000)


class Standby(Protocol):
    """A second server, which follows the first through `link`.

    `take_over` makes the one that follows the leader, and returns where it is.
    """

    link: Proxy

    def child(self, environ: Mapping[str, str]) -> Child: ...
    def follow(self) -> None: ...
    def take_over(self) -> str: ...


class PostgresStandby:
    """A copy of a running PostgreSQL, whose every commit waits for it once it follows."""

    def __init__(self, leader: str, folder: Path) -> None:
        """Copy the leader. Raises EmbeddedError."""
        self._leader = leader
        self.link = Proxy(lambda: address(leader))
        self._server = _copied(leader, self.link.port, folder)

    def child(self, environ: Mapping[str, str]) -> Child:
        """Describe its process."""
        child = self._server.child(environ)
        return dataclasses.replace(child, name="postgres-standby", role="postgres-standby")

    def follow(self) -> None:
        """Let the leader's commits wait for it. Raises EmbeddedError where it does not follow."""
        with contextlib.closing(_connected(self._leader)) as leader:
            leader.execute(_SQL.standby_awaited)
            leader.execute(_SQL.configuration_reloaded)
            if not process.until(lambda: _count(leader, _SQL.standbys_in_step) == 1, _FOLLOW_S):
                raise EmbeddedError("the standby of PostgreSQL does not follow")

    def take_over(self) -> str:
        """Become the server, for good. Raises psycopg.Error."""
        with contextlib.closing(_connected(self._server.dsn())) as connection:
            connection.execute(_SQL.standby_promoted)
        return self._server.dsn()


class ValkeyStandby:
    """A replica of a running Valkey. After it took over, the other one is the replica, and so on."""

    def __init__(self, leader: str, folder: Path) -> None:
        self._password = urlsplit(leader).password or ""
        self._server = ValkeyServer(folder, free_port(), self._password)
        self._leader, self._follower = leader, self._server.url
        self.link = Proxy(lambda: address(self._leader))

    def child(self, environ: Mapping[str, str]) -> Child:
        """Describe its process."""
        self._server.folder.mkdir(mode=0o700, exist_ok=True)
        child = self._server.child(environ)
        return dataclasses.replace(child, name="valkey-standby", role="valkey-standby")

    def follow(self) -> None:
        """Follow the leader. Raises EmbeddedError where that does not work."""
        self.demote_other()
        with contextlib.closing(_client(self._follower)) as client:
            if not process.until(
                lambda: client.info("replication").get("master_link_status") == "up", _FOLLOW_S
            ):
                raise EmbeddedError("the standby of Valkey does not follow")

    def take_over(self) -> str:
        """Let the replica be a leader; the other one goes on as one. Raises redis.RedisError."""
        with contextlib.closing(_client(self._follower)) as client:
            client.replicaof("NO", "ONE")
        self._leader, self._follower = self._follower, self._leader
        return self._leader

    def demote_other(self) -> None:
        """Let the other one follow: it forgets what it alone knew. Raises redis.RedisError."""
        with contextlib.closing(_client(self._follower)) as client:
            client.config_set("masterauth", self._password)
            client.replicaof("127.0.0.1", self.link.port)


def address(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 0


def _copied(leader: str, link_port: int, folder: Path) -> PostgresServer:
    folder.mkdir(mode=0o700)
    password = urlsplit(leader).password or ""
    source = f"postgresql://postgres:{password}@127.0.0.1:{link_port}/postgres"
    command = [str(_program("pg_basebackup")), "--pgdata", str(folder / "data")]
    command += [
        "--dbname",
        source,
        "--write-recovery-conf",
        "--checkpoint=fast",
        "--wal-method=stream",
    ]
    copied = subprocess.run(
        command, capture_output=True, text=True, timeout=_COPY_S, check=False, cwd=folder
    )
    if copied.returncode != 0:
        raise EmbeddedError(f"PostgreSQL cannot be copied: {copied.stderr.strip()}")
    server = PostgresServer.prepare(folder, free_port(), password)
    if server.run_as is not None:
        for path in (folder / "data", *(folder / "data").rglob("*")):
            os.chown(path, server.run_as.uid, server.run_as.gid, follow_symlinks=False)
    return server


def _connected(dsn: str) -> Connection:
    return connect(dsn, OWNER, _BOUNDS, name="chaos")


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=1)


def _count(connection: Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
