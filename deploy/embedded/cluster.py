"""A whole Tidegate on one machine: servers, migrations, campaign, processes, under one supervisor.

    with Cluster(workers=2) as cluster:
        httpx.get(cluster.api_url + "/livez")

Used by `tidegate dev`, by the demo and by tests alike. Not for production: servers and processes
share one machine and one superuser.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

import deploy
from config.settings import Broker, Settings
from deploy.embedded import apps, endpoints, seeding
from deploy.embedded.child import Child
from deploy.embedded.endpoints import Endpoints
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import DataFolder
from deploy.embedded.ports import free_port, is_free
from deploy.embedded.rabbitmq import RabbitServer
from deploy.embedded.servers import Servers, child_environ
from deploy.embedded.supervisor import Processes, Supervisor
from workers.domain.campaign import CampaignFile

# Small, and open at any date, so that a first intent meets a campaign.
_CAMPAIGNS = Path(deploy.__file__).resolve().parent / "campaigns"
DEV_CAMPAIGN = _CAMPAIGNS / "dev.toml"
HEARTBEAT_CAMPAIGN = _CAMPAIGNS / "tidegate-heartbeat.toml"
# First the intake, so that nothing more is accepted; last what the others still need.
_STOP_ORDER = (
    ("api",),
    ("redispatcher", "governor", "relay", "exporter"),
    ("worker",),
    ("postgres", "valkey", "rabbitmq"),
    ("epmd",),
)


class Cluster:
    """An embedded cluster; a context manager.

    `data` None is a temporary folder, removed at the end. `port` 0 is any free port. `campaign`
    None applies no campaign. `extra_env` are settings (`TIDEGATE_…`) for the processes alone.
    `settings` are the processes' settings but for what the cluster decides: the addresses of the
    servers and of the API, and the master secret if it is empty. With `servers_only` neither
    migrations nor processes of ours are run. `with_rabbitmq` adds one (Debian's package must be
    there), which is the processes' broker in Valkey's place. With `heartbeat` the exporter posts
    orders of its own, of a campaign of its own. `arrange` may change which processes of ours are
    started, and how. `on_event` hears sentences about restarts, from another thread.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        api_processes: int = 1,
        workers: int = 2,
        host: str = "127.0.0.1",
        port: int = 0,
        campaign: Path | None = DEV_CAMPAIGN,
        extra_env: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        servers_only: bool = False,
        with_rabbitmq: bool = False,
        heartbeat: bool = False,
        arrange: Callable[[Sequence[Child]], Sequence[Child]] = lambda children: children,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Keep the wishes; `start` fulfils them."""
        self._wished_data = data
        self._api_processes = api_processes
        self._workers = workers
        self._host = host
        self._port = port
        self._campaign = campaign
        self._extra_env = dict(extra_env or {})
        self._settings = settings or Settings()
        self._servers_only = servers_only
        self._with_rabbitmq = with_rabbitmq
        self._heartbeat = heartbeat
        self._arrange = arrange
        self._on_event = on_event
        self._metrics: dict[str, str] = {}
        self._up = False
        self._stop_lock = threading.Lock()
        self._folder: DataFolder | None = None
        self._supervisor: Supervisor
        self._servers: Servers
        self.api_key = ""

    def start(self) -> None:
        """Start everything and return when the API is ready.

        Raises EmbeddedError with the reason and the mend; then nothing is left running.
        """
        campaign = seeding.read_campaign(self._campaign) if self._campaign else None
        if not self._servers_only and self._port and not is_free(self._port, self._host):
            msg = f"port {self._port} on {self._host} is taken; give --port another, or 0 for any"
            raise EmbeddedError(msg)
        self._folder = DataFolder(self._wished_data)
        try:
            for pid in self._folder.end_leftovers():
                self._on_event(f"ended process {pid}, left by an earlier start on this data")
            self._supervisor = Supervisor(self._folder.logs, self._write_endpoints, self._on_event)
            self._servers = Servers(
                self._folder, self._supervisor, with_rabbitmq=self._with_rabbitmq
            )
            self._servers.start()
            if not self._servers_only:
                self._start_apps(self._folder, campaign)
            self._up = True
            self._supervisor.tell()
        except BaseException:
            self.hasten()
            self.stop()
            raise

    def stop(self) -> None:
        """Drain and stop in order, servers last; remove a temporary data folder. Idempotent."""
        with self._stop_lock:
            if self._folder is None:
                return
            # Whatever interrupts it, such as another Ctrl-C: nothing is left running.
            with contextlib.ExitStack() as last:
                last.callback(self._leave, self._folder)
                if hasattr(self, "_supervisor"):
                    last.callback(self._supervisor.close)
                    self._supervisor.stop_all(_STOP_ORDER)

    def _leave(self, folder: DataFolder) -> None:
        self._folder = None
        endpoints.remove(folder.path)
        folder.close()

    def hasten(self) -> None:
        """Make a stop that is under way, or comes, short. May be called from a signal handler."""
        if hasattr(self, "_supervisor"):
            self._supervisor.hasten()

    def processes(self) -> Processes:
        """Return the pids of what runs now, by role."""
        return self._supervisor.processes()

    @property
    def data(self) -> Path:
        """The data folder in use."""
        if self._folder is None:
            msg = "the cluster is not running"
            raise EmbeddedError(msg)
        return self._folder.path

    @property
    def dsn(self) -> str:
        """The PostgreSQL database, as its owner."""
        return self._servers.postgres.dsn()

    @property
    def valkey_url(self) -> str:
        """The Valkey server."""
        return self._servers.valkey.url

    @property
    def rabbitmq(self) -> RabbitServer:
        """The RabbitMQ node, where there is one."""
        if self._servers.rabbitmq is None:
            msg = "the cluster runs without a RabbitMQ"
            raise EmbeddedError(msg)
        return self._servers.rabbitmq

    @property
    def api_url(self) -> str:
        """The API's root, without a slash at its end."""
        return apps.api_url(self._settings)

    @property
    def settings(self) -> Settings:
        """The settings of the processes, as decided at the start."""
        return self._settings

    def endpoints(self) -> Endpoints:
        """Return what `endpoints.json` says now."""
        return Endpoints(
            api="" if self._servers_only else self.api_url,
            metrics=self._metrics,
            postgres=self.dsn,
            valkey=self.valkey_url,
            rabbitmq=self.rabbitmq.url if self._with_rabbitmq else "",
            api_key=self.api_key,
            processes=self._supervisor.processes(),
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; at once when something went wrong or somebody pressed Ctrl-C."""
        if error is not None:
            self.hasten()
        self.stop()

    def _start_apps(self, folder: DataFolder, campaign: CampaignFile | None) -> None:
        state = folder.state
        self._settings = replace(
            self._settings,
            postgres=replace(self._settings.postgres, dsn=self.dsn),
            valkey=replace(self._settings.valkey, url=self.valkey_url),
            broker=self._broker(),
            api=replace(
                self._settings.api,
                host=self._host,
                port=self._port or free_port(host=self._host),
                processes=self._api_processes,
            ),
            # Receivers of webhooks on the same machine are what such a cluster is tried with.
            webhooks=replace(self._settings.webhooks, allow_private=True),
            secrets=replace(
                self._settings.secrets, master=self._settings.secrets.master or state.master
            ),
        )
        heartbeat = seeding.read_campaign(HEARTBEAT_CAMPAIGN) if self._heartbeat else None
        applied = [one for one in (campaign, heartbeat) if one is not None]
        state.api_key = seeding.seed(self.dsn, applied, state.api_key)
        folder.save_state()
        self.api_key = state.api_key
        laid_out = apps.describe(
            self._settings,
            self._workers,
            child_environ(folder),
            self._extra_env,
            folder.path,
            state.api_key if self._heartbeat else "",
        )
        self._metrics = laid_out.metrics
        self._supervisor.start(self._arrange(laid_out.children))

    def _broker(self) -> Broker:
        """Return where the broker is: a RabbitMQ of ours, or what the settings say."""
        given = self._settings.broker
        return replace(given, url=self.rabbitmq.url) if self._with_rabbitmq else given

    def _write_endpoints(self, _: Processes) -> None:
        """Write them down; the supervisor calls it, never twice at a time."""
        if self._up:  # who waits for the file may then use what it names
            self.endpoints().write(self.data)
