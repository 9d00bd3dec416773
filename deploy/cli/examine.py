"""The examinations of `tidegate doctor`: each gathers facts first, then judges them."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings, redact_url
from deploy.cli.finding import Finding, judge, unreachable
from workers.store import pool
from workers.store.migrate import MigrationError, pending
from workers.store.sql import queries

_SQL = queries("doctor")

POSTGRES_VERSION_MIN = 15
VALKEY_VERSION_MIN = (7, 2)
REDIS_VERSION_MIN = (7, 0)
# Beyond it logs, deadlines shown to users and the gate's and journal's times stop agreeing.
CLOCK_SKEW_S_MAX = 0.5
FILES_MIN = 8_192  # connections of one API process in a rush, and then some
# Of each process beside its settings: metrics, operators, a rolling restart.
_SPARE_CONNECTIONS = 10
_API_CONNECTIONS = 3 + 2  # beside its lanes: look-ups by key, resources, limits; the console's
_CHILD_CONNECTIONS = 2  # a batch's, and one for what must outlive it
_LOOP_CONNECTIONS = 2 + 3 + 2 + 1  # redispatcher, governor, relay, exporter
_ROLES = [pool.PRODUCER, pool.WORKER, pool.AUDITOR, pool.OPERATOR]
_API_ROLES = [pool.PRODUCER, pool.WORKER]  # its intake's and its orders'; beside them the console's
_SET_SINCE = 160_000  # a member may take a role on only if it was granted so


def postgres(settings: Settings) -> list[Finding]:
    """Examine the journal's database."""
    where = redact_url(settings.postgres.dsn)
    bounds = pool.Bounds(connect_timeout_s=settings.postgres.connect_timeout_s)
    try:
        with pool.connect(settings.postgres.dsn, pool.OWNER, bounds, name="doctor") as connection:
            asked_at = time.time()
            facts = _Facts(*connection.execute(_SQL.server_facts).fetchall()[0])
            answered_at = time.time()
            roles = _judge_roles(connection, facts.version)
            schema = _schema(connection)
    except psycopg.OperationalError as error:
        mend = "start it, or correct TIDEGATE_POSTGRES__DSN"
        return [unreachable("PostgreSQL", f"{where}: {error}", mend)]
    return [
        judge("PostgreSQL", True, where, ""),
        *_judge_server(facts, settings),
        _judge_clock("PostgreSQL clock", facts.now_s, asked_at, answered_at),
        schema,
        *roles,
    ]


def valkey(settings: Settings) -> list[Finding]:
    """Examine the gate's server."""
    url, timeout_s = settings.valkey.url, settings.valkey.timeout_ms / 1_000
    client = redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),  # what fails now is what there is to say
    )
    try:
        with client:
            info: dict[str, Any] = client.info()
            asked_at = time.time()
            seconds, microseconds = client.time()
            answered_at = time.time()
    except (redis.RedisError, OSError) as error:
        mend = "start it, or correct TIDEGATE_VALKEY__URL"
        return [unreachable("Valkey", f"{redact_url(url)}: {error}", mend)]
    now_s = seconds + microseconds / 1_000_000
    return [
        judge("Valkey", True, redact_url(url), ""),
        *_judge_valkey(info),
        _judge_clock("Valkey clock", now_s, asked_at, answered_at),
    ]


def host(settings: Settings) -> list[Finding]:
    """Examine this machine and the settings themselves."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = files == resource.RLIM_INFINITY
    return [
        judge(
            "open files",
            unlimited or files >= FILES_MIN,
            "unlimited" if unlimited else f"up to {files}",
            f"raise the hard limit to {FILES_MIN} or more (`ulimit -Hn`, LimitNOFILE=)",
        ),
        judge(
            "secrets",
            bool(settings.secrets.master),
            "set" if settings.secrets.master else "secrets.master is empty",
            "set TIDEGATE_SECRETS__MASTER_FILE to a file made with `openssl rand -hex 32`",
        ),
        judge(
            "failpoints",
            not settings.failpoints_enabled,
            "enabled" if settings.failpoints_enabled else "off",
            "unset TIDEGATE_FAILPOINTS_ENABLED, unless this is a chaos test",
        ),
    ]


class _Facts(NamedTuple):
    version: int
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    connections_max: int
    now_s: float
    read_only: bool


def _judge_server(facts: _Facts, settings: Settings) -> list[Finding]:
    needed = connections_needed(settings)
    version = facts.version // 10_000
    return [
        judge(
            "PostgreSQL version",
            version >= POSTGRES_VERSION_MIN,
            version,
            f"upgrade to {POSTGRES_VERSION_MIN} or later",
        ),
        judge(
            "PostgreSQL takes writes",
            not facts.read_only,
            "a standby" if facts.read_only else "yes",
            "point TIDEGATE_POSTGRES__DSN at the primary (target_session_attrs=read-write)",
        ),
        *(
            judge(f"PostgreSQL {name}", value != "off", value, f"ALTER SYSTEM SET {name} = on")
            for name, value in (
                ("fsync", facts.fsync),
                ("full_page_writes", facts.full_page_writes),
                ("synchronous_commit", facts.synchronous_commit),
            )
        ),
        judge(
            "PostgreSQL max_connections",
            facts.connections_max >= needed,
            f"{facts.connections_max} for ordinary logins; one process of each kind needs {needed}",
            "raise max_connections, or lower api.lanes, api.processes, worker.concurrency",
        ),
    ]


def connections_needed(settings: Settings) -> int:
    """Count the connections of one process of each kind with these settings."""
    return (
        settings.api.processes * (settings.api.lanes + _API_CONNECTIONS)
        + settings.worker.concurrency * _CHILD_CONNECTIONS
        + _LOOP_CONNECTIONS
        + _SPARE_CONNECTIONS
    )


def _judge_valkey(info: Mapping[str, Any]) -> list[Finding]:
    is_valkey = info.get("server_name") == "valkey"
    name = "Valkey" if is_valkey else "Redis"
    text = str(info["valkey_version" if is_valkey else "redis_version"])
    least = VALKEY_VERSION_MIN if is_valkey else REDIS_VERSION_MIN
    policy = info.get("maxmemory_policy", "unknown")
    role = info.get("role", "unknown")
    return [
        judge(
            "Valkey version",
            tuple(map(int, text.split(".")[:2])) >= least,
            f"{name} {text}",
            "upgrade to Valkey 7.2 or later, or Redis 7.0 or later",
        ),
        judge(
            "Valkey takes writes",
            role == "master",
            role,
            "point TIDEGATE_VALKEY__URL at the primary",
        ),
        judge(
            "Valkey maxmemory-policy",
            policy == "noeviction",
            policy,
            "CONFIG SET maxmemory-policy noeviction; evicting a binding key loses a whole queue",
        ),
        judge(
            "Valkey append-only file",
            info.get("aof_enabled") == 1,
            "on" if info.get("aof_enabled") == 1 else "off",
            "CONFIG SET appendonly yes; without it a restart empties gate and queue at once",
        ),
    ]


def _judge_clock(check: str, theirs_s: float, asked_at: float, answered_at: float) -> Finding:
    """Compare a clock with ours; it was read somewhere between asking and answer."""
    skew_s = max(asked_at - theirs_s, theirs_s - answered_at, 0.0)
    return judge(
        check,
        skew_s <= CLOCK_SKEW_S_MAX,
        f"{skew_s * 1_000:.0f} ms apart from this host's",
        "run NTP on both machines (chronyc tracking)",
    )


def _judge_roles(connection: pool.Connection, version: int) -> list[Finding]:
    """Judge whether this login may take our roles on, and the API's login all that are the API's."""
    privilege, option = ("SET", " WITH SET TRUE") if version >= _SET_SINCE else ("MEMBER", "")
    taking_on = {"privilege": privilege}
    ((login,),) = connection.execute(_SQL.login_name).fetchall()
    missing = connection.execute(_SQL.roles_missing, {"roles": _ROLES, **taking_on}).fetchall()
    names = ", ".join(name for name, _ in missing)
    grant = _grant(names, login, option)
    asked = {"roles": _API_ROLES, "one_more": pool.OPERATOR, **taking_on}
    others = ", ".join(name for (name,) in connection.execute(_SQL.logins_without, asked))
    return [
        judge(
            "PostgreSQL roles",
            not missing,
            f"missing: {names}" if missing else "all there",
            grant
            if all(exists for _, exists in missing)
            else f"run `tidegate migrate`, then {grant}",
        ),
        judge(
            "PostgreSQL login of the API",
            not others,
            f"{others}: no {pool.OPERATOR}, so no console there" if others else "none lacks a role",
            _grant(pool.OPERATOR, others, option),
        ),
    ]


def _grant(roles: str, logins: str, option: str) -> str:
    """Write the line that an owner may run; nobody does here."""
    words = ("GRANT", roles, "TO", logins)
    return " ".join(words) + option


def _schema(connection: pool.Connection) -> Finding:
    mend = "run `tidegate migrate`"
    try:
        missing = [migration.name for migration in pending(connection)]
    except MigrationError as error:
        return judge(
            "PostgreSQL schema", False, error, "run the version that applied it, or restore"
        )
    except psycopg.errors.InsufficientPrivilege:
        return judge(
            "PostgreSQL schema", False, "not for this login to see", "ask with the owner's DSN"
        )
    found = "not applied: " + ", ".join(missing) if missing else "up to date"
    return judge("PostgreSQL schema", not missing, found, mend)
