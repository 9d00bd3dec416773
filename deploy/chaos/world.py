"""The world that faults act on: one cluster, the proxies before its servers, its disks and clocks.

A world is made for a variety and serves any number of scenarios of that variety, each with a campaign
of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import redis

from config.failpoints import NAMES
from config.settings import Settings
from deploy.chaos import abilities, deadly
from deploy.chaos.apart import Apart
from deploy.chaos.mutations import Mutation
from deploy.chaos.proxy import Proxy
from deploy.chaos.receivers import Receivers
from deploy.chaos.scenario import Disk, Variety
from deploy.chaos.standby import PostgresStandby, Standby, ValkeyStandby, address
from deploy.embedded import process
from deploy.embedded.child import Child
from deploy.embedded.cluster import Cluster
from deploy.embedded.folder import DataFolder
from deploy.embedded.ports import free_port
from workers.store.pool import OWNER, Bounds, Connection, connect

WORKERS: Final = 2
_API_PROCESSES: Final = 2
_DISK_MB: Final[dict[Disk, int]] = {"logs": 8, "postgres": 320, "valkey": 48}
_VALKEY_TIMEOUT_S: Final = 3.0
# A fault may have to wait for what an earlier one still holds, and then gives up.
_BOUNDS: Final = Bounds(
    statement_timeout_ms=4_000, lock_timeout_ms=3_000, idle_in_transaction_ms=120_000
)


class Hears(Protocol):
    """Hears what happens, a sentence each."""

    def __call__(self, said: str, /) -> None: ...


class World:
    """A cluster of one variety, broken by a mutation if one is given. Its logs stay in `folder`."""

    def __init__(
        self, variety: Variety, folder: Path, tell: Hears, mutation: Mutation | None = None
    ) -> None:
        """Keep the wishes; `start` fulfils them."""
        self.variety = variety
        self.folder = folder
        self.campaign_id = ""  # of the scenario that runs
        self.proxies: dict[str, Proxy] = {}
        self.leaders: dict[str, str] = {}  # by server: who took over from the cluster's own
        self.standby: Standby | None = None
        self.apart: Apart | None = None
        self.receivers: Receivers | None = None
        self.spent = False  # what was done to it serves no other scenario
        self.cluster: Cluster
        self._tell = tell
        self._mutation = mutation
        self._stack = contextlib.ExitStack()
        self._rooms = contextlib.ExitStack()  # what processes live in: taken away after their end

    def start(self) -> None:
        """Start everything. Raises EmbeddedError with the reason."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.disarm()
            environ = self._environ()
            self._mount_disks()
            self.cluster = Cluster(
                self.data,
                api_processes=_API_PROCESSES,
                workers=WORKERS,
                campaign=None,
                extra_env=environ,
                settings=Settings(),
                with_rabbitmq=self.variety.rabbitmq,
                arrange=self._arrange,
                on_event=self._tell,
            )
            self._rooms = self._stack.enter_context(contextlib.ExitStack())
            self._stack.callback(self.cluster.stop)
            self.cluster.start()
            if self.standby is not None:
                self.standby.follow()
            if self.variety.webhooks:
                self._listen()
            self._mutate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything, hastily: it is judged. Keep the logs; the servers' data are removed."""
        if hasattr(self, "cluster"):
            self.cluster.hasten()
        with contextlib.ExitStack() as last:  # however often somebody presses Ctrl-C
            last.callback(shutil.rmtree, self.data, ignore_errors=True)
            if "logs" in self.variety.disks:
                self._keep_logs()
            else:
                last.callback(self._keep_logs)
            self._stack.close()

    def _keep_logs(self) -> None:
        with contextlib.suppress(OSError):
            shutil.copytree(self.data / "logs", self.folder / "logs", dirs_exist_ok=True)

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    @property
    def dsn(self) -> str:
        """The database that is the true one now, past any proxy."""
        return self.leaders.get("postgres") or self.cluster.dsn

    @property
    def valkey_url(self) -> str:
        """The Valkey that leads now, past any proxy."""
        return self.leaders.get("valkey") or self.cluster.valkey_url

    # ---- what faults reach for

    def pids(self, role: str) -> list[int]:
        """Return who runs now under a role; `postgres-backend` are the server's own children."""
        found = self.cluster.processes()
        if role == "postgres-backend":
            return [child for pid in found.get("postgres", []) for child in process.children(pid)]
        return found.get(role, [])

    def postgres(self, *, autocommit: bool = True) -> Connection:
        """Open a connection as the owner, past any proxy. Raises psycopg.OperationalError."""
        return connect(self.dsn, OWNER, _BOUNDS, name="chaos", autocommit=autocommit)

    def valkey(self) -> redis.Redis:
        """Open a client, past any proxy."""
        return redis.Redis.from_url(
            self.valkey_url, socket_timeout=_VALKEY_TIMEOUT_S, socket_connect_timeout=1
        )

    def marker(self, failpoint: str) -> Path:
        """Return the file that disarms a failpoint by being there."""
        return self.folder / "markers" / failpoint

    def disarm(self) -> None:
        """Disarm every failpoint."""
        for name in NAMES:
            self.marker(name).parent.mkdir(exist_ok=True)
            self.marker(name).touch()

    def offset(self, child: str) -> Path:
        """Return the file that says by how many seconds a process's wall clock is off."""
        return self.folder / "offsets" / child

    # ---- how it is made

    def _environ(self) -> dict[str, str]:
        action = self.variety.failpoints
        points = (f"{name}={action},once:{self.marker(name)}" for name in sorted(NAMES))
        environ = {
            "TIDEGATE_FAILPOINTS_ENABLED": "true",
            "TIDEGATE_FAILPOINTS": ";".join(points),
            **dict(self.variety.settings),
        }
        if self.variety.proxied:
            environ |= self._proxied()
        return environ

    def _proxied(self) -> dict[str, str]:
        """Put proxies before servers that are not there yet; their passwords are settled already."""
        folder = DataFolder(self.data)
        state = folder.state
        state.postgres_port, state.valkey_port = free_port(), free_port()
        folder.save_state()
        folder.close()
        servers = {"postgres": self._postgres_at, "valkey": self._valkey_at}
        for name, where in servers.items():
            self.proxies[name] = self._stack.enter_context(Proxy(where))
        return {
            "TIDEGATE_POSTGRES__DSN": (
                f"postgresql://postgres:{state.postgres_password}@127.0.0.1:"
                f"{self.proxies['postgres'].port}/tidegate"
            ),
            "TIDEGATE_VALKEY__URL": (
                f"redis://:{state.valkey_password}@127.0.0.1:{self.proxies['valkey'].port}/0"
            ),
        }

    def _postgres_at(self) -> tuple[str, int]:
        return address(self.dsn)

    def _valkey_at(self) -> tuple[str, int]:
        return address(self.valkey_url)

    def _mount_disks(self) -> None:
        DataFolder(self.data).close()
        for disk in self.variety.disks:
            folder = self.data / disk
            folder.mkdir(mode=0o700, exist_ok=True)
            abilities.mount_small(folder, _DISK_MB[disk])
            self._stack.callback(abilities.unmount, folder)

    def _listen(self) -> None:
        self.receivers = self._stack.enter_context(Receivers())
        with contextlib.closing(self.postgres()) as connection:
            self.receivers.register(connection, self.cluster.settings.secrets.master)

    def _mutate(self) -> None:
        if self._mutation is not None and self._mutation.statements:
            with contextlib.closing(self.postgres()) as connection:
                connection.execute(self._mutation.statements)

    def _arrange(self, children: Sequence[Child]) -> list[Child]:
        """Lay out the processes as the variety has it."""
        without = {self.variety.without, self._mutation.without if self._mutation else ""}
        arranged = [child for child in children if child.role not in without]
        for child in list(arranged):
            if child.role == "redispatcher":
                arranged += list(_twins(child, self.variety.redispatchers))
        shim = {"LD_PRELOAD": str(abilities.build_shim(self.folder))} if self.variety.skewed else {}
        arranged = [self._prepared(child, shim) for child in arranged]
        if self.variety.deadly:
            arranged = [self._rooms.enter_context(deadly.exposed(child)) for child in arranged]
        if self.variety.apart:
            arranged[-1] = self._set_apart(arranged[-1])
        if self.variety.standby:
            self.standby = self._second(self.variety.standby)
            self._stack.callback(self.standby.link.close)
            arranged.append(self.standby.child(children[0].environ))
        return arranged

    def _second(self, server: str) -> Standby:
        folder = self.data / f"{server}-standby"
        if server == "postgres":
            return PostgresStandby(self.cluster.dsn, folder)
        return ValkeyStandby(self.cluster.valkey_url, folder)

    def _set_apart(self, child: Child) -> Child:
        servers = {"postgres": self._postgres_at, "valkey": self._valkey_at}
        self.apart = self._rooms.enter_context(Apart(servers))
        environ = dict(child.environ)
        for name, here in (("POSTGRES__DSN", "postgres"), ("VALKEY__URL", "valkey")):
            url = urlsplit(environ[f"TIDEGATE_{name}"])
            login = url.netloc.rpartition("@")[0]
            there = f"{login}@{self.apart.host}:{self.apart.ports[here]}"
            environ[f"TIDEGATE_{name}"] = url._replace(netloc=there).geturl()
        program = self.apart.wrapped(child.program)
        return dataclasses.replace(child, program=program, environ=environ)

    def _prepared(self, child: Child, shim: dict[str, str]) -> Child:
        environ = dict(child.environ)
        if self._mutation is not None:
            path = f"{self._mutation.environ['PYTHONPATH']}:{environ['PYTHONPATH']}"
            environ |= self._mutation.environ | {"PYTHONPATH": path}
        if shim:
            offset = self.offset(child.name)
            offset.parent.mkdir(exist_ok=True)
            write_offset(offset, 0)
            environ |= {**shim, "SKEW_FILE": str(offset)}
        return dataclasses.replace(child, environ=environ)


def write_offset(file: Path, seconds: int) -> None:
    """Set a process's wall clock off by so many seconds: in place, where it is mapped."""
    with file.open("r+b" if file.exists() else "wb") as out:
        out.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def _twins(child: Child, count: int) -> Iterator[Child]:
    for number in range(2, count + 1):
        environ = {**child.environ, "TIDEGATE_REDISPATCHER__METRICS_PORT": "0"}
        yield dataclasses.replace(child, name=f"{child.name}-{number}", environ=environ)
