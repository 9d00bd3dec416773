"""The exporter: one process that shows Prometheus what the tables say, and that orders go through.

Business counters live here because processes die: what the tables hold is exact through any kill, and
is there again after a restart. PostgreSQL is read at an interval, whoever scrapes and however often; a
scrape is answered from memory, with the time of the reading beside it. While PostgreSQL is away the
last reading stays, and `tidegate_postgres_up` says 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from msgspec.structs import replace
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from config import meters, scrapes
from config.exposition import Exposition
from config.listening import listen
from config.settings import Settings
from workers.contract.celery_app import make_app
from workers.contract.gate import open_client
from workers.contract.hints import waiting_hints
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE
from workers.runtime.heartbeat import Heartbeat
from workers.runtime.showing import Reading, families
from workers.runtime.stopping import told_to_stop
from workers.service.redispatch import Schedule
from workers.store import figures
from workers.store.pool import AUDITOR, Session, opener

_log = structlog.get_logger()

_TURN_S = 0.05
HANGS_S = 2.0  # a reading takes milliseconds; who takes so long does not answer,
HANGS_SHARE = 3  # unless the last one took a third of it: then it is slow


def run(settings: Settings) -> int:
    """Read and serve until SIGTERM or SIGINT; return the exit status."""
    meters.introduce("exporter")
    stop = told_to_stop()
    exporter = Exporter(settings)
    listening = listen(
        settings.exporter.metrics_host, settings.exporter.metrics_port, scrapes.BACKLOG
    )
    server = scrapes.serve(listening, Exposition("exporter", beside=[exporter]))
    _log.info("exporting", port=server.server_port)
    heartbeat = Heartbeat(settings.exporter)
    heartbeat.start()
    schedule = exporter.schedule()
    while not stop.wait(_TURN_S):
        schedule.run_due()
    server.shutdown()
    return 0


class Exporter(Collector):
    """Reads at intervals, in one thread; shows the last reading to whoever scrapes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.exporter
        self._session = Session(opener(settings.postgres, AUDITOR, "exporter"))
        self._broker = make_app(settings)
        self._valkey = open_client(settings.valkey.url, timeout_ms=settings.valkey.timeout_ms)
        self._reading = Reading()
        self._gone_at: float | None = (
            None  # monotonic; of PostgreSQL, if it has not answered by then
        )

    def schedule(self) -> Schedule:
        """Return the duties of reading, each at its interval."""
        schedule = Schedule(self._tell_failure)
        interval_s = self._settings.interval_ms / 1_000
        schedule.add("postgres", interval_s, self.read_tables)
        schedule.add("valkey", interval_s, self.read_valkey)
        schedule.add("queues", interval_s, self.read_queues)
        schedule.add("drift", self._settings.drift_interval_ms / 1_000, self.read_drift)
        return schedule

    def read_tables(self) -> None:
        """Read what the tables say; raises psycopg.Error."""
        began, ours = time.perf_counter(), self._settings
        with self._asking(self._reading.took_s):
            found = figures.read(
                self._session.connection, ours.campaigns, ours.campaigns_max, ours.skus_max
            )
        self._reading = replace(
            self._reading,
            figures=found,
            at=time.time(),
            took_s=time.perf_counter() - began,
            postgres_up=True,
        )

    def read_drift(self) -> None:
        """Audit balances and ledger; raises psycopg.Error."""
        began = time.perf_counter()
        with self._asking(self._reading.drift_took_s):
            drift = figures.read_drift(self._session.connection)
        for name, violations in drift.items():
            if violations:
                _log.error("ledger drift", check=name, violations=violations)
        took_s = time.perf_counter() - began
        self._reading = replace(self._reading, drift=drift, drift_took_s=took_s)

    @contextmanager
    def _asking(self, took_s: float) -> Iterator[None]:
        """Know when PostgreSQL is gone if it has not answered; `took_s` is what this took last."""
        self._gone_at = time.monotonic() + max(HANGS_S, HANGS_SHARE * took_s)
        try:
            yield
        finally:
            self._gone_at = None

    def read_valkey(self) -> None:
        """Ask Valkey for a sign of life; raises redis.RedisError."""
        self._valkey.ping()
        self._reading = replace(self._reading, valkey_up=True)

    def read_queues(self) -> None:
        """Ask the broker how long its queues are; raises what its transport raises."""
        queues = {
            queue: waiting_hints(self._broker, queue) for queue in (ORDERS_QUEUE, INTAKE_QUEUE)
        }
        self._reading = replace(self._reading, queues=queues)

    def collect(self) -> Iterator[Family]:
        """Yield the last reading; while PostgreSQL hangs there is no failure yet to be told."""
        reading, gone_at = self._reading, self._gone_at
        if gone_at is not None and time.monotonic() > gone_at:
            reading = replace(reading, postgres_up=False)
        yield from families(reading)

    def _tell_failure(self, name: str, error: Exception) -> None:
        _log.warning("not read", what=name, error=error)
        match name:
            case "postgres":
                self._reading = replace(self._reading, postgres_up=False)
            case "valkey":
                self._reading = replace(self._reading, valkey_up=False)
            case "queues":
                self._reading = replace(self._reading, queues={})
            case _:
                self._reading = replace(self._reading, drift={})
