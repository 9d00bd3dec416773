"""The servers of one cluster, started together on a data folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from deploy.embedded import process
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import DataFolder
from deploy.embedded.ports import free_port
from deploy.embedded.postgres import PostgresServer
from deploy.embedded.rabbitmq import RabbitServer
from deploy.embedded.supervisor import Supervisor
from deploy.embedded.valkey import ValkeyServer
from workers.store import pool
from workers.store.sql import queries

_SQL = queries("embedded")
_BOUNDS = pool.Bounds(statement_timeout_ms=60_000)  # a database is copied, on a slow disk
_TRIES_MAX = 3  # another program may take a port between our look and the server's


class Servers:
    """The servers of one data folder, on free ports of the loopback interface.

    PostgreSQL and Valkey; and RabbitMQ where it is to be the broker.
    """

    def __init__(
        self, folder: DataFolder, supervisor: Supervisor, *, with_rabbitmq: bool = False
    ) -> None:
        """Keep what is needed; nothing is started yet."""
        self._folder = folder
        self._supervisor = supervisor
        self.postgres: PostgresServer
        self.valkey: ValkeyServer
        self.rabbitmq: RabbitServer | None = None
        self._with_rabbitmq = with_rabbitmq

    def start(self) -> None:
        """Make what is missing and start all; return when all take commands.

        Raises EmbeddedError with the reason and the mend.
        """
        if sys.platform != "linux":
            msg = (
                "the embedded servers run on Linux; elsewhere set up PostgreSQL and Valkey yourself"
            )
            raise EmbeddedError(msg)
        environ = child_environ(self._folder)
        for tries_left in reversed(range(_TRIES_MAX)):
            self._prepare()
            try:
                if self.rabbitmq is not None:
                    self._supervisor.start([self.rabbitmq.names_child(environ)])
                self._supervisor.start([one.child(environ) for one in self._all()])
                break
            except EmbeddedError as failed:
                self._supervisor.stop(["rabbitmq", "epmd", "postgres", "valkey"])
                if tries_left == 0 or "already in use" not in str(failed):
                    raise
        self._folder.save_state()
        self._create_database()

    def _all(self) -> Iterator[PostgresServer | ValkeyServer | RabbitServer]:
        if self.rabbitmq is not None:
            yield self.rabbitmq
        yield self.postgres
        yield self.valkey

    def _prepare(self) -> None:
        state = self._folder.state
        state.postgres_port = free_port(state.postgres_port)
        state.valkey_port = free_port(state.valkey_port)
        self.postgres = PostgresServer.prepare(
            self._folder.subfolder("postgres"), state.postgres_port, state.postgres_password
        )
        self.valkey = ValkeyServer(
            self._folder.subfolder("valkey"), state.valkey_port, state.valkey_password
        )
        if self._with_rabbitmq:
            for_clients, for_nodes, for_names = map(free_port, state.rabbitmq_ports)
            state.rabbitmq_ports = (for_clients, for_nodes, for_names)
            room = self._folder.subfolder("rabbitmq")
            self.rabbitmq = RabbitServer(room, *state.rabbitmq_ports, state.rabbitmq_password)

    def _create_database(self) -> None:
        with _connect(self.postgres.dsn("postgres")) as connection:
            names = {row[0] for row in connection.execute(_SQL.database_names)}
            if "tidegate" not in names:
                connection.execute(_SQL.database_create)
        if self.postgres.counts_statements:
            with _connect(self.postgres.dsn()) as connection:
                connection.execute(_SQL.statistics_extension_create)


def child_environ(folder: DataFolder) -> dict[str, str]:
    """Return the environment of every child: ours without settings, with the cluster's mark."""
    plain = {name: v for name, v in os.environ.items() if not name.startswith("TIDEGATE_")}
    return {**plain, process.MARKER: str(folder.path)}


def _connect(dsn: str) -> pool.Connection:
    return pool.connect(dsn, pool.OWNER, _BOUNDS, name="embedded")
