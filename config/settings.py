"""Settings: what may be told to Tidegate from outside, with its bounds and their purpose.

Precedence: command line, environment (`TIDEGATE_API__PORT`), TOML file (`[api] port = …`), default.
Everything is checked at once, before anything connects; `SettingsError` names every fault and its
mend. Values are frozen: a process serves with the settings it started with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from config import sources, tracing
from config.sources import SettingsError
from config.tracing import Tracing

__all__ = [
    "Admission",
    "Api",
    "Broker",
    "Exporter",
    "Governor",
    "Log",
    "Postgres",
    "Redispatcher",
    "Relay",
    "Secrets",
    "Settings",
    "SettingsError",
    "Tracing",
    "Valkey",
    "Webhooks",
    "Worker",
    "load",
    "redact_url",
    "redacted",
    "require_secrets",
    "to_environ",
]

# How long anything may be made to wait by a setting; longer is a typing error, not a wish.
Milliseconds = Annotated[int, Meta(ge=1, le=600_000)]
Seconds = Annotated[int, Meta(ge=1, le=3_600)]
# One statement carries a batch as arrays; beyond this a batch holds its locks too long.
BatchMax = Annotated[int, Meta(ge=1, le=10_000)]
Port = Annotated[int, Meta(ge=0, le=65_535)]

MASTER_LENGTH_MIN = 32  # 32 characters of hexadecimal hold 128 bits: not to be guessed


class Postgres(Struct, frozen=True, forbid_unknown_fields=True):
    """The journal and everything that is true."""

    dsn: str = "postgresql:///tidegate"
    # A host that does not answer is given up here, so that a pool can try the next one.
    connect_timeout_s: Seconds = 3
    # A batch takes tens of milliseconds; a statement this old waits for something that is ill.
    statement_timeout_ms: Milliseconds = 5_000
    # Waiting for a lock longer than this means a stuck holder: fail, roll back, try again.
    lock_timeout_ms: Milliseconds = 2_000
    # A process that stalls inside a transaction must not keep its row locks.
    idle_in_transaction_timeout_ms: Milliseconds = 10_000


class Valkey(Struct, frozen=True, forbid_unknown_fields=True):
    """The gate and the channel of outcomes. Holds nothing that cannot be made again."""

    url: str = "redis://127.0.0.1:6379/0"  # redis://, rediss:// (TLS) or unix://
    # One gate call. Past it the gate counts as absent and the intake answers without it.
    timeout_ms: Milliseconds = 1_000
    # Several deployments may share one server; every key of ours begins with this.
    key_prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "tidegate"


class Broker(Struct, frozen=True, forbid_unknown_fields=True):
    """Celery's queue: hints only. May lose everything it holds."""

    url: str = ""  # empty: valkey.url; redis://, rediss://, unix://, amqp:// or amqps://
    # A hint not sent within this is left to the redispatcher; no reply waits for it.
    publish_timeout_ms: Milliseconds = 2_000
    # A hint not acknowledged within this is delivered again. One value for every process that
    # shares the broker: the scanning worker's counts. RabbitMQ needs none: it knows by the worker's
    # connection.
    visibility_timeout_s: Seconds = 120


class Api(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API and the intake behind it."""

    host: str = "127.0.0.1"
    port: Port = 8080  # 0: any free port
    # Scrapes of /metrics on `port` wait among the calls; on this one they do not. 0: only there.
    metrics_port: Port = 0
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0
    # Processes that accept on the same port; one per core that may be spent on HTTP.
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    # Batches written at once by one process, each on a connection of its own.
    lanes: Annotated[int, Meta(ge=1, le=32)] = 2
    # Intents in one batch: beyond it the commit gets slower, not cheaper per intent.
    batch_max: BatchMax = 500
    # Intents that wait for a lane; more are refused at once, since they would time out anyway.
    pending_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    # Hints of one process under way at once; about two for each worker that may be at work.
    hints_unheard_max: Annotated[int, Meta(ge=1, le=1_000)] = 4
    # An answer is given within this, whatever is dead.
    accept_timeout_ms: Milliseconds = 5_000
    # The longest `Prefer: wait` that is honoured: each waiter holds a connection open.
    wait_max_s: Annotated[int, Meta(ge=0, le=300)] = 30
    # Replies under way at shutdown are finished within this; then the process ends.
    drain_timeout_s: Annotated[int, Meta(ge=0, le=300)] = 10


class Admission(Struct, frozen=True, forbid_unknown_fields=True):
    """Policy numbers handed to the gate."""

    # Accepted and undecided at once; bounds the table of open intents and the gate's memory.
    in_flight_max: Annotated[int, Meta(ge=1, le=50_000_000)] = 500_000
    # Admitted per second while the gate does not know what is in flight (after a flush, at start).
    # Also what deadlines are judged by before a service rate was measured, and what one counts for
    # at least once no governor measures it.
    unreconciled_rate: Annotated[int, Meta(ge=1, le=1_000_000)] = 200


class Worker(Struct, frozen=True, forbid_unknown_fields=True):
    """One worker process and its prefork children."""

    # Open intents claimed in one transaction: bounds how long hot rows stay locked.
    batch_max: BatchMax = 500
    # Prefork children, each with a database connection of its own.
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 1
    metrics_port: Port = 0  # 0: serves no metrics
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0


class Redispatcher(Struct, frozen=True, forbid_unknown_fields=True):
    """The loop that hints again at intents left behind, expires orders, reconciles the gate."""

    interval_ms: Milliseconds = 500
    # Hints of one tick: recovery must not become a storm of its own.
    hints_per_tick_max: Annotated[int, Meta(ge=1, le=10_000)] = 20
    # An open intent older than this is hinted at again; younger ones have a hint under way.
    dispatch_after_ms: Milliseconds = 5_000
    # Orders expired in one transaction: bounds how long their stock rows stay locked.
    expire_batch_max: BatchMax = 500
    # The gate's in-flight set is compared with the open intents this often.
    reconcile_interval_ms: Milliseconds = 5_000
    metrics_port: Port = 0  # 0: serves no metrics
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0


class Governor(Struct, frozen=True, forbid_unknown_fields=True):
    """The loop that measures the load, and tells every gate how much to let in."""

    # How often it measures and speaks. Below two batches' time it would measure the space between.
    interval_ms: Annotated[int, Meta(ge=20, le=10_000)] = 250
    # Its word holds this long unless said again; another governor takes over after it. Longer than
    # a pause of a machine, shorter than the patience of a buyer.
    lease_ms: Annotated[int, Meta(ge=500, le=60_000)] = 3_000
    # What a buyer in a chat waits without asking what is wrong: the queue is kept this short.
    target_wait_ms: Annotated[int, Meta(ge=50, le=300_000)] = 1_500
    # The longest predicted wait that is let in while nothing is shed: a burst of a second or two.
    wait_max_ms: Milliseconds = 2_850
    # A dependency that has not answered within this counts as away in this look at it.
    probe_timeout_ms: Annotated[int, Meta(ge=50, le=10_000)] = 1_000
    # Balances are told to the gate this often; it forgets them after 3 s.
    balances_interval_ms: Annotated[int, Meta(ge=50, le=2_000)] = 500
    # Told are stocks of up to so many units, and budgets of up to so many coupons: before that
    # nothing runs out within the seconds that the gate could err.
    scarce_units_max: Annotated[int, Meta(ge=0, le=100_000_000)] = 100_000
    metrics_port: Port = 0  # 0: serves no metrics
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0


class Webhooks(Struct, frozen=True, forbid_unknown_fields=True):
    """What gateways are told without asking."""

    # Plain HTTP, any port, addresses of this machine and its networks: for development. Whoever may
    # register an endpoint could otherwise make us call what only we can reach.
    allow_private: bool = False
    # CloudEvents' `source`: which deployment it is that speaks.
    source: Annotated[str, Meta(min_length=1, max_length=256)] = "/tidegate"
    # Delivered events are kept so long, to be delivered again when asked for.
    keep_days: Annotated[int, Meta(ge=1, le=90)] = 7
    # What was given up is kept longer: somebody has yet to look at it.
    keep_dead_days: Annotated[int, Meta(ge=1, le=365)] = 30


class Relay(Struct, frozen=True, forbid_unknown_fields=True):
    """One process that delivers the outbox."""

    # A new event waits so long at most while nothing else happens.
    interval_ms: Milliseconds = 200
    # Posts to one endpoint at once: what it has to bear, and what it can hold up.
    endpoint_posts_max: Annotated[int, Meta(ge=1, le=256)] = 8
    # Posts to all endpoints at once; each is a connection.
    posts_max: Annotated[int, Meta(ge=1, le=10_000)] = 512
    metrics_port: Port = 0  # 0: serves no metrics
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0


class Exporter(Struct, frozen=True, forbid_unknown_fields=True):
    """The process that shows Prometheus what the tables say."""

    metrics_port: Port = 0  # 0: any free port; the log says which
    metrics_host: str = "127.0.0.1"  # in a container, where Prometheus comes from outside: 0.0.0.0
    # PostgreSQL is read this often, whoever scrapes: a scrape never waits for it.
    interval_ms: Annotated[int, Meta(ge=100, le=600_000)] = 5_000
    # The cheap part of the audit; a run reads the whole ledger.
    drift_interval_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 60_000
    # Campaigns that are shown by name; none listed: the newest. All others are `other`.
    campaigns: tuple[str, ...] = ()
    campaigns_max: Annotated[int, Meta(ge=1, le=1_000)] = 20
    # Items of each campaign whose stock is shown.
    skus_max: Annotated[int, Meta(ge=1, le=10_000)] = 50
    # The order that the exporter posts now and then; none without a key.
    heartbeat_url: str = "http://127.0.0.1:8080"
    heartbeat_api_key: str = ""
    heartbeat_campaign: str = "tidegate-heartbeat"
    heartbeat_sku: str = "heartbeat"
    heartbeat_interval_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)] = 15_000


class Secrets(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys for coupon codes and appointments; all others are derived from `master`."""

    master: str = ""  # empty only in `tidegate dev`, which makes one
    # Earlier masters, still accepted for verifying; drop one when nothing it signed is alive.
    old_masters: tuple[str, ...] = ()


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines: on standard output of processes, on standard error of commands."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal, else JSON lines
    # Of the calls that went well, and of the intents in a batch, so large a share is told, chosen by
    # their ids: at 10,000 a second, 1 % is as many lines as somebody may want to keep.
    sample_share: Annotated[float, Meta(ge=0, le=1)] = 0.01


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one process."""

    postgres: Postgres = Postgres()
    valkey: Valkey = Valkey()
    broker: Broker = Broker()
    api: Api = Api()
    admission: Admission = Admission()
    worker: Worker = Worker()
    redispatcher: Redispatcher = Redispatcher()
    governor: Governor = Governor()
    webhooks: Webhooks = Webhooks()
    relay: Relay = Relay()
    exporter: Exporter = Exporter()
    secrets: Secrets = Secrets()
    log: Log = Log()
    tracing: Tracing = Tracing()
    failpoints: str = ""  # see config.failpoints; for chaos tests
    failpoints_enabled: bool = False  # a second word, so that no deployment kills itself by mistake

    @property
    def broker_url(self) -> str:
        """The broker's URL in kombu's spelling, with `valkey.url` in place of an empty one."""
        url = self.broker.url or self.valkey.url
        # kombu calls a Unix socket `redis+socket://`, redis-py calls it `unix://`.
        return re.sub(r"^unix://", "redis+socket://", url).replace("?db=", "?virtual_host=")


def load(
    config_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Gather settings from every source, check them all, and freeze them.

    `overrides` come from the command line, with dotted keys (`{"api.port": 8081}`); a value of None
    means "not given". Raises SettingsError with all faults.
    """
    found, faults = sources.gather(Settings, config_file, overrides or {}, environ)
    settings, invalid = sources.build(Settings, found)
    faults = [*faults, *invalid]
    if not faults:
        faults = _contradictions(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def require_secrets(settings: Settings) -> None:
    """Refuse to serve without a master secret: a receipt signed with a default is no receipt."""
    if not settings.secrets.master:
        raise SettingsError(
            [
                (
                    "secrets.master: not set; set TIDEGATE_SECRETS__MASTER_FILE to a file with at "
                    f"least {MASTER_LENGTH_MIN} random characters (`openssl rand -hex 32`), the "
                    "same for every process"
                )
            ]
        )


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values that may be printed: no secret, no password in a URL."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    secrets = plain["secrets"]
    secrets["master"] = "***" if secrets["master"] else ""
    secrets["old_masters"] = ["***" for _ in secrets["old_masters"]]
    plain["postgres"]["dsn"] = redact_url(settings.postgres.dsn)
    plain["valkey"]["url"] = redact_url(settings.valkey.url)
    plain["broker"]["url"] = redact_url(settings.broker.url)
    plain["tracing"]["endpoint"] = redact_url(settings.tracing.endpoint)
    return plain


def redact_url(url: str) -> str:
    """Mask the password of a URL or of a libpq keyword string."""
    url = re.sub(r"(://[^:/?#\s]*):\S*@", r"\1:***@", url)
    return re.sub(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]+)", r"\1***", url)


def to_environ(settings: Settings) -> dict[str, str]:
    """Say every setting as environment variables, for a child process to load the same again."""
    return {sources.env_name(key): text for key, text in sources.flatten(settings).items()}


def _contradictions(settings: Settings) -> list[str]:
    """Find faults that no single value shows."""
    api, postgres = settings.api, settings.postgres
    secrets = [s for s in (settings.secrets.master, *settings.secrets.old_masters) if s]
    broker = settings.broker_url
    checks = [
        (
            settings.valkey.url.startswith(("redis://", "rediss://", "unix://")),
            "valkey.url: must begin with redis://, rediss:// or unix:// (Valkey speaks redis://)",
        ),
        (
            broker.startswith(("redis://", "rediss://", "redis+socket://", "amqp://", "amqps://"))
            or not settings.broker.url,
            (
                "broker.url: must begin with redis://, rediss://, unix://, amqp:// or amqps://, "
                "or be empty to use valkey.url"
            ),
        ),
        (
            all(len(secret) >= MASTER_LENGTH_MIN for secret in secrets),
            (
                f"secrets.master, secrets.old_masters: each needs at least {MASTER_LENGTH_MIN} "
                "characters; make one with `openssl rand -hex 32`"
            ),
        ),
        (
            api.pending_max >= api.batch_max,
            (
                f"api.pending_max: {api.pending_max} is less than api.batch_max ({api.batch_max}), "
                "so no full batch could ever gather; raise it"
            ),
        ),
        (
            settings.valkey.timeout_ms < api.accept_timeout_ms,
            (
                f"valkey.timeout_ms: {settings.valkey.timeout_ms} leaves nothing of "
                f"api.accept_timeout_ms ({api.accept_timeout_ms}) for the journal; lower it"
            ),
        ),
        (
            postgres.statement_timeout_ms < settings.broker.visibility_timeout_s * 1_000,
            (
                "broker.visibility_timeout_s: shorter than postgres.statement_timeout_ms, so a "
                "slow batch would be delivered twice; raise it"
            ),
        ),
        (
            settings.failpoints_enabled or not settings.failpoints,
            (
                "failpoints: set, but failpoints_enabled is not; set "
                "TIDEGATE_FAILPOINTS_ENABLED=true (for chaos tests only), or unset "
                "TIDEGATE_FAILPOINTS"
            ),
        ),
        *_of_governor(settings.governor),
        *tracing.checks(settings.tracing),
    ]
    return [fault for fine, fault in checks if not fine]


def _of_governor(governor: Governor) -> list[tuple[bool, str]]:
    return [
        (
            governor.lease_ms >= 4 * governor.interval_ms,
            (
                f"governor.lease_ms: {governor.lease_ms} is less than four of "
                f"governor.interval_ms ({governor.interval_ms}), so a leader could lose it between "
                "two looks; raise it"
            ),
        ),
        (
            10 * governor.wait_max_ms >= 19 * governor.target_wait_ms,
            (
                f"governor.wait_max_ms: {governor.wait_max_ms} is less than 1.9 times "
                f"governor.target_wait_ms ({governor.target_wait_ms}), which is let in even while "
                "orders are shed; raise it"
            ),
        ),
    ]
