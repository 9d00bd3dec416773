"""Each process with a Valkey user of its own: all that it does works, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from kit import CAMPAIGN, CODES, World, comes_true, order
from own_processes import running, settings_of
from tls_proxy import over_tls

from producer.admitting import Asked
from producer.limits import Limits
from tests.deploy_files import make_secrets
from tests.factories import GATEWAY, admitting
from workers.contract.admission import Balance, CampaignLimits, RateLimit
from workers.contract.calendar import Calendar, Holder, Wish
from workers.contract.celery_app import make_app
from workers.contract.gate import GateUnreachable, open_client, open_gate
from workers.contract.hints import hint_sender
from workers.contract.ids import uuid7
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE, gate_names
from workers.domain.appointment import Block, Pace, Window
from workers.domain.overload import Level, Policy

NAMES = gate_names("tidegate")
_ENOUGH = RateLimit(1_000, 1_000)
LIMITS = Limits(
    {CAMPAIGN: CampaignLimits(_ENOUGH, _ENOUGH, _ENOUGH, _ENOUGH)},
    {GATEWAY: _ENOUGH},
    {"tea-house": _ENOUGH},
)
PROCESSES = ("api", "worker", "governor", "redispatcher", "exporter", "operator", "gateway")


@pytest.fixture
def urls(valkey_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where each user finds the server, with what deploy/secrets.sh makes of users.acl in force."""
    secrets = make_secrets(tmp_path / "secrets")
    place = urlsplit(valkey_url).netloc.rpartition("@")[2]
    made = []
    with redis.Redis.from_url(valkey_url) as admin:
        for line in (secrets / "valkey_acl").read_text().splitlines():
            _, name, *rules = line.split()
            if name != "default":
                admin.execute_command("ACL", "SETUSER", name, *_joined(rules))
                made.append(name)
        admin.acl_log_reset()
        yield {
            process: (secrets / f"valkey_url_{process}")
            .read_text()
            .strip()
            .replace("@valkey:6379", f"@{place}")
            for process in PROCESSES
        }
        admin.acl_deluser(*made)


def _joined(rules: list[str]) -> list[str]:
    """A selector is one argument, its parentheses and all."""
    joined: list[str] = []
    for rule in rules:
        if joined and joined[-1].startswith("(") and not joined[-1].endswith(")"):
            joined[-1] += f" {rule}"
        else:
            joined.append(rule)
    return joined


def denials(valkey_url: str) -> list[tuple[str, str, str]]:
    """Whom the server has refused what, since its log was emptied."""
    with redis.Redis.from_url(valkey_url) as admin:
        return [(one["username"], one["reason"], one["object"]) for one in admin.acl_log(100)]


def test_all_that_processes_ask_of_the_gate_is_theirs(
    world: World, urls: dict[str, str], valkey_url: str
) -> None:
    """Every call of gate and calendar, by the user of the process that makes it."""
    gates = {name: open_gate(settings_of(world.dsn, url, 0)) for name, url in urls.items()}
    calendars = {
        name: Calendar(open_client(url, timeout_ms=5_000), "tidegate") for name, url in urls.items()
    }
    with redis.Redis.from_url(valkey_url) as admin:
        admin.function_flush()
    api, worker, governor = (gates[name] for name in ("api", "worker", "governor"))
    with pytest.raises(GateUnreachable):  # nobody who hears the world loads what others run
        api.policy()
    with redis.Redis.from_url(valkey_url) as admin:
        admin.acl_log_reset()
    epoch = governor.take_lead("g", 60_000)
    assert epoch is not None
    policy = Policy(level=Level.SHEDDING, admitted_per_s=500, service_per_s=500)
    assert governor.publish(policy, epoch=epoch, lease_ms=60_000)
    governor.tell_balances([Balance("stock:spring:tea", 1, 1_000, 0)])
    assert governor.policy().in_flight == 0
    state = calendars["governor"].begin()
    block = Block(None, state.now_ms, state.now_ms + 600_000)
    assert calendars["governor"].extend({GATEWAY: block})
    assert calendars["governor"].cursors()

    gates["redispatcher"].reconcile(list)
    for name in ("api", "worker"):
        posted = order(f"u-{name}", conversation_id="c-1")
        assert admitting(gates[name], CODES, LIMITS).ask([Asked(posted, uuid7())]) == [None]
        wish = Wish(GATEWAY, f"u-{name}", "spring", None, was_turned_away=False)
        pace = Pace(per_s=10, lead_ms=0)
        (window,) = calendars[name].book([wish], pace).windows
        assert isinstance(window, Window)
        holder = Holder(GATEWAY, f"u-{name}", "spring", window, uuid7())
        calendars[name].use([holder])
        calendars[name].give_back([holder])
        gates[name].release([posted.intent_id])
        assert gates[name].policy().policy is not None
        assert gates[name].reconciled()
    worker.settle([uuid7()], b"told", [Balance("stock:spring:tea", 2, 999, 0)])
    assert gates["redispatcher"].reconciled()
    gates["redispatcher"].reconcile(list)
    assert gates["operator"].policy().policy is not None
    assert denials(valkey_url) == []


DANGEROUS = [
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET maxmemory",
    "CONFIG SET maxmemory 1",
    "KEYS *",
    "SCAN 0",
    "DEBUG SLEEP 0",
    "SHUTDOWN",
    "ACL LIST",
    "ACL SETUSER tidegate-api allcommands",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "MONITOR",
    "MODULE LIST",
    "REPLICAOF NO ONE",
    "EVAL return_1 0",
    "FUNCTION FLUSH",
    "FUNCTION DELETE tidegate",
    "SAVE",
    "RANDOMKEY",
    "SELECT 1",
    "PSUBSCRIBE *",
    "SET somebodys 1",
    "GET somebodys",
    "DEL somebodys",
    *(
        "MIGRATE 127.0.0.1 1 k 0 1",
        "DUMP somebodys",
        "RESTORE somebodys 0 x",
        "COPY a b",
        "MOVE a 1",
    ),
    *("RENAME a b", "SORT a", "OBJECT ENCODING a", "SWAPDB 0 1", "DBSIZE", "TYPE a", "UNLINK a"),
    *("CLIENT PAUSE 1000", "CLIENT NO-EVICT ON", "CLIENT TRACKING ON", "CLIENT UNPAUSE"),
    *(
        "SUBSCRIBE __keyspace@0__:x",
        "SUBSCRIBE __redis__:invalidate",
        "SSUBSCRIBE x",
        "PUBLISH x y",
    ),
    *("SCRIPT FLUSH", "FUNCTION LIST", "FUNCTION DUMP", "FUNCTION RESTORE x", "EVAL_RO return_1 0"),
    *("PSYNC ? -1", "SYNC", "FAILOVER", "BGSAVE", "BGREWRITEAOF", "ROLE", "SLOWLOG GET", "COMMAND"),
    *("LATENCY LATEST", "MEMORY USAGE a", "CLUSTER INFO", "WAIT 0 0", "ACL WHOAMI", "ACL GENPASS"),
    f"LMOVE {ORDERS_QUEUE} {INTAKE_QUEUE} LEFT LEFT",
    f"RPOPLPUSH {ORDERS_QUEUE} {NAMES.policy}",
    f"LTRIM {ORDERS_QUEUE} 1 0",
    f"EXPIRE {NAMES.in_flight} 1",
    f"FCALL tidegate_version 1 {ORDERS_QUEUE}",
    f"FCALL_RO tidegate_state 1 {ORDERS_QUEUE}",
]
# What another process's work is made of; `p` is the gate's prefix.
OTHERS = {
    "api": [
        f"BRPOP {ORDERS_QUEUE} 1",
        f"RPOP {ORDERS_QUEUE}",
        f"LRANGE {ORDERS_QUEUE} 0 -1",
        f"DEL {ORDERS_QUEUE}",
        f"LPUSH {INTAKE_QUEUE} x",
        f"GET {NAMES.lead}",
        f"DEL {NAMES.policy}",
        "HGETALL unacked",
        f"PUBLISH {NAMES.outcome_channel} x",
        f"FCALL tidegate_lead 2 {NAMES.lead} {NAMES.policy} 1 x 1",
        f"FCALL tidegate_settle_2 1 {NAMES.in_flight} 1",
        f"FCALL tidegate_reconcile_finish 2 {NAMES.epoch} {NAMES.epoch} 1",
        "FUNCTION LOAD x",
        "SCRIPT LOAD x",
    ],
    "worker": [
        f"GET {NAMES.lead}",
        f"LRANGE {ORDERS_QUEUE} 0 -1",
        f"DEL {ORDERS_QUEUE}",
        f"FCALL tidegate_publish 2 {NAMES.lead} {NAMES.policy} 1",
        "FUNCTION LOAD x",
        "EVALSHA x 1 somebodys",
        f"SUBSCRIBE {NAMES.outcome_channel}x",
        f"BRPOP {ORDERS_QUEUE} unacked 1",
        f"EVALSHA x 2 unacked_mutex {NAMES.policy}",
        "HGETALL unacked",
    ],
    "governor": [
        f"LPUSH {ORDERS_QUEUE} x",
        f"BRPOP {ORDERS_QUEUE} 1",
        f"PUBLISH {NAMES.outcome_channel} x",
        f"FCALL tidegate_admit_2 1 {NAMES.in_flight} 1",
        f"SADD {NAMES.in_flight} x",
    ],
    "redispatcher": [
        f"BRPOP {ORDERS_QUEUE} 1",
        f"LPUSH {INTAKE_QUEUE} x",
        f"GET {NAMES.policy}",
        f"FCALL tidegate_publish 2 {NAMES.lead} {NAMES.policy} 1",
        f"PUBLISH {NAMES.outcome_channel} x",
    ],
    "exporter": [
        f"LPUSH {ORDERS_QUEUE} x",
        f"GET {NAMES.policy}",
        f"SCARD {NAMES.in_flight}",
        "INFO",
    ],
    "operator": [
        f"SET {NAMES.policy} x",
        f"DEL {NAMES.in_flight}",
        f"LLEN {ORDERS_QUEUE}",
        f"FCALL tidegate_publish 2 {NAMES.lead} {NAMES.policy} 1",
    ],
    "gateway": [
        f"BRPOP {INTAKE_QUEUE} 1",
        f"LRANGE {INTAKE_QUEUE} 0 -1",
        f"LPUSH {ORDERS_QUEUE} x",
        f"GET {NAMES.policy}",
        f"FCALL tidegate_admit_2 1 {NAMES.in_flight} 1",
        "INFO",
    ],
}


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_not_its_work_is_refused(process: str, urls: dict[str, str]) -> None:
    """No server can be emptied, read, paused or told anything by a process's password."""
    with redis.Redis.from_url(urls[process]) as client:
        assert client.ping()
        asked = [*DANGEROUS, *OTHERS[process]]
        assert [line for line in asked if not _is_refused(client, line)] == []


def _is_refused(client: redis.Redis, line: str) -> bool:
    try:
        client.execute_command(*line.split())
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError as error:
        return "not allowed" in str(error)  # DEBUG is off for everybody
    return False


def test_a_script_can_do_no_more_than_who_runs_it(urls: dict[str, str]) -> None:
    """Kombu's lock is a script, so a worker may load others."""
    with redis.Redis.from_url(urls["worker"]) as client:
        for asked in ("'FLUSHALL'", f"'LRANGE', '{ORDERS_QUEUE}', 0, -1", "'GET', 'somebodys'"):
            sha = client.script_load(f"return redis.call({asked})")
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)acl|permission"):
                client.evalsha(sha, 1, "unacked_mutex")


def test_nobody_comes_in_without_a_password(valkey_url: str, urls: dict[str, str]) -> None:
    place = urlsplit(valkey_url)
    options = {"host": place.hostname, "port": place.port}
    denied = (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)
    for user in (None, "tidegate-api", "default"):
        with pytest.raises(denied):
            redis.Redis(**options, username=user, password="guess" if user else None).ping()
    health = redis.Redis(**options, username="health", password="any")
    assert health.ping()
    with pytest.raises(redis.exceptions.NoPermissionError):
        health.info()


@pytest.mark.slow
def test_a_whole_deployment_runs_with_a_user_for_each_process_and_tls(
    world: World, urls: dict[str, str], valkey_url: str, tmp_path: Path
) -> None:
    """Orders by HTTP are committed and heard of; the server had nothing to refuse to anybody."""
    with redis.Redis.from_url(valkey_url) as admin:
        _leave_behind(admin, urls["api"])
    with (
        over_tls(urls, world.dsn, tmp_path) as (secured, dsn),
        running(world, secured, tmp_path, dsn=dsn) as api,
    ):
        assert comes_true(lambda: api.post("u-0").status_code in (200, 202), 30), api.told()
        with redis.Redis.from_url(valkey_url) as admin:
            admin.acl_log_reset()  # of the first moments, until a loop had loaded the library
        outcomes = [api.post(f"u-{n}", prefer="wait=10") for n in range(1, 21)]
        assert [one.json().get("status") for one in outcomes] == ["committed"] * 20, api.told()
        assert comes_true(lambda: world.open_count() == 0, 20)
        with redis.Redis.from_url(valkey_url) as admin:
            assert comes_true(lambda: admin.hlen("unacked") == 0, 20), api.told()
        assert comes_true(lambda: api.exported('celery_queue_length{queue_name="tidegate.orders"}'))
    assert denials(valkey_url) == []
    world.assert_clean()


def _leave_behind(admin: redis.Redis, url: str) -> None:
    """Let a worker have died with a hint in hand: whoever comes next takes it up."""
    hint_sender(make_app(settings_of("", url, 0)), 5)([uuid7()])
    message = json.loads(admin.rpop(ORDERS_QUEUE))
    admin.hset("unacked", "left", json.dumps([message, "", ORDERS_QUEUE]))
    admin.zadd("unacked_index", {"left": 1})
