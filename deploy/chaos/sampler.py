"""The sampler: looks at accounts, processes and queues several times a second, while faults go on."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
import redis
from msgspec import Struct

from deploy.chaos import tables
from deploy.chaos.harm import rabbitmq
from deploy.chaos.history import now
from deploy.chaos.tables import AccountRow
from deploy.chaos.world import World
from deploy.embedded import process
from workers.contract.names import ORDERS_QUEUE

_EVERY_S: Final = 0.5
_STOP_S: Final = 5.0  # a look at a server that does not answer takes longer, and is not waited for
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ROLES: Final = (
    "api",
    "api-child",
    "worker",
    "worker-child",
    "redispatcher",
    "governor",
    "relay",
    "exporter",
    "valkey",
    "rabbitmq",
)


class ProcessUse(Struct, frozen=True):
    """What one process holds. `started` tells it from another under the same pid."""

    role: str
    pid: int
    started: int
    memory_bytes: int
    files: int


class Sample(Struct, frozen=True, kw_only=True):
    """One look. The accounts were read between `began` and `ended`; what could not be read is None."""

    began: float
    ended: float
    accounts: list[AccountRow] | None = None
    connections: int | None = None
    unacknowledged: int | None = None
    hints: int | None = None
    processes: list[ProcessUse] = []


class Sampler:
    """Looks until it is closed; a context manager."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._campaign_id = world.campaign_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            began = now()
            accounts, connections = self._postgres()
            ended = now()
            unacknowledged, hints = self._queue()
            self.samples.append(
                Sample(
                    began=began,
                    ended=ended,
                    accounts=accounts,
                    connections=connections,
                    unacknowledged=unacknowledged,
                    hints=hints,
                    processes=self._processes(),
                )
            )

    def _postgres(self) -> tuple[list[AccountRow] | None, int | None]:
        with (
            contextlib.suppress(psycopg.Error),
            contextlib.closing(tables.open_reader(self._world.dsn)) as connection,
        ):
            accounts = tables.read_accounts(connection, self._campaign_id)
            return accounts, tables.count_connections(connection)
        return None, None

    def _queue(self) -> tuple[int | None, int | None]:
        if self._world.variety.rabbitmq:
            return None, rabbitmq.waiting(self._world)
        with contextlib.suppress(redis.RedisError), self._world.valkey() as client:
            return int(client.hlen("unacked")), int(client.llen(ORDERS_QUEUE))
        return None, None

    def _processes(self) -> list[ProcessUse]:
        found = []
        for role in _ROLES:
            for pid in self._world.pids(role):
                one = process.identify(pid)
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if one is not None:
                        found.append(ProcessUse(role, pid, one.started, _memory(pid), _files(pid)))
        return found


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
