"""The gate when its server is away, hostile or out of room: it fails closed, and in time."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from gate_world import NO_LIMITS, OwnValkey, admitted, aged_candidates, candidates, open_gate

from workers.contract.gate import (
    Balance,
    Gate,
    GateUnreachable,
    Limits,
    RateLimit,
    Units,
    open_client,
)
from workers.contract.ids import uuid7
from workers.domain.overload import Level, Policy

TIMEOUT_MS = 5_000
BALANCE = Balance("stock:c-1:tea", 1, 10, 0)
ADMIT_KEYS = [
    f"{{test}}:{name}"
    for name in (
        *("in_flight", "epoch", "unreconciled", "policy"),
        *("level", "balances", "units", "ahead"),
    )
]


def _gate(url: str, *, timeout_ms: int = TIMEOUT_MS) -> Gate:
    client = open_client(url, timeout_ms=timeout_ms)
    return Gate(client, key_prefix="test", in_flight_max=100, unreconciled_rate=100)


def _calls(gate: Gate) -> list[Callable[[], Any]]:
    return [
        lambda: gate.admit(candidates(3), NO_LIMITS),
        lambda: gate.settle([uuid7()], b"x"),
        lambda: gate.release([uuid7()]),
        lambda: gate.tell_balances([BALANCE]),
        lambda: gate.take_lead("one", 1_000),
        lambda: gate.publish(Policy(), epoch=1, lease_ms=1_000),
        gate.policy,
        gate.in_flight,
        gate.reconciled,
        lambda: gate.reconcile(list),
    ]


def _assert_unreachable(gate: Gate) -> None:
    for call in _calls(gate):
        with pytest.raises(GateUnreachable, match="cannot be reached"):
            call()


def _asked(listener: socket.socket) -> list[int]:
    """Return of each connection that was made how many commands came over it."""
    listener.setblocking(False)
    counts: list[int] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return counts
        with connection:
            counts.append(connection.recv(65_536).count(b"FCALL") or 1)


def test_a_server_that_says_nothing_is_asked_once(tmp_path: Path) -> None:
    """So a call takes one timeout at the most: nobody waits twice for the same."""
    path = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        gate = _gate(f"unix://{path}", timeout_ms=50)
        for call in _calls(gate):
            with pytest.raises(GateUnreachable, match="cannot be reached"):
                call()
            assert _asked(listener) == [1]


def test_a_server_that_hangs_is_unreachable_until_it_goes_on(own_valkey: OwnValkey) -> None:
    """A stopped process keeps its connections open and says nothing."""
    fresh, connected = (_gate(own_valkey.url, timeout_ms=50) for _ in range(2))
    patient = _gate(own_valkey.url)
    connected.in_flight()
    own_valkey.process.send_signal(signal.SIGSTOP)
    _assert_unreachable(connected)
    _assert_unreachable(fresh)
    own_valkey.process.send_signal(signal.SIGCONT)
    assert patient.reconcile(list).finished


def test_a_server_that_is_gone_is_unreachable_at_once(own_valkey: OwnValkey) -> None:
    """A refused or broken connection is told, not waited for; a server that is back is used."""
    gate = open_gate(own_valkey.url)
    own_valkey.process.kill()
    own_valkey.process.wait()
    _assert_unreachable(gate)
    own_valkey.restart()
    assert gate.reconcile(list).finished
    assert admitted(gate.admit(candidates(), NO_LIMITS)) == [True]


def test_out_of_memory_admits_nobody_but_lets_intents_leave(own_valkey: OwnValkey) -> None:
    """Without memory the gate fails closed; settling, releasing and sweeping free some."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    inside = aged_candidates(6)
    gate.admit(inside, NO_LIMITS)
    keys = set(client.keys("*"))
    client.config_set("maxmemory", 1)
    with pytest.raises(GateUnreachable, match="maxmemory"):
        gate.admit(candidates(3), NO_LIMITS)
    assert set(client.keys("*")) == keys
    gate.settle([inside[0].intent_id], b"told")
    gate.release([inside[1].intent_id])
    assert gate.in_flight() == 4
    still_open = [candidate.intent_id for candidate in inside[2:5]]
    assert gate.reconcile(lambda: still_open, grace_ms=0).finished
    assert gate.in_flight() == 3
    client.config_set("maxmemory", 0)
    assert admitted(gate.admit(candidates(), NO_LIMITS)) == [True]


def test_a_replica_is_unreachable_as_a_gate(own_valkey: OwnValkey) -> None:
    """A server that was demoted takes no writes; what it would answer is not the truth."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(GateUnreachable, match="replica"):
        gate.admit(candidates(), NO_LIMITS)


def test_no_connection_to_a_server_that_was_demoted_is_kept(own_valkey: OwnValkey) -> None:
    """By its name another is found, while the old one may live on and refuse every write."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    gate.admit(candidates(), NO_LIMITS)
    others = len(client.client_list())
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(GateUnreachable, match="replica"):
        gate.admit(candidates(), NO_LIMITS)
    assert len(client.client_list()) == others - 1


def test_a_master_cut_off_from_its_replicas_is_unreachable(own_valkey: OwnValkey) -> None:
    """NOREPLICAS: what it takes may be lost with it."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    client.config_set("min-replicas-to-write", 1)
    with pytest.raises(GateUnreachable, match="NOREPLICAS"):
        gate.admit(candidates(), NO_LIMITS)


def test_a_server_whose_disk_fails_is_unreachable(own_valkey: OwnValkey) -> None:
    """MISCONF: a server that cannot save refuses writes."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    client.config_set("save", "3600 1")
    (Path(own_valkey.folder) / "dump.rdb").mkdir()
    client.bgsave()
    for _ in range(100):
        if client.info("persistence")["rdb_last_bgsave_status"] == "err":
            break
        time.sleep(0.02)
    with pytest.raises(GateUnreachable, match=r"MISCONF|disk"):
        gate.admit(candidates(), NO_LIMITS)


def test_a_user_without_rights_finds_the_gate_unreachable(own_valkey: OwnValkey) -> None:
    """A wrong access rule is the operator's fault to mend, and admits nobody meanwhile."""
    open_gate(own_valkey.url)
    admin: Any = redis.Redis.from_url(own_valkey.url)
    admin.execute_command("ACL", "SETUSER", "default", "-fcall")
    with pytest.raises(GateUnreachable, match="permission"):
        _gate(own_valkey.url).admit(candidates(), NO_LIMITS)


def test_one_access_rule_covers_a_deployment(own_valkey: OwnValkey) -> None:
    """A user confined to the prefix's keys and channels, and to few commands, can run the gate."""
    admin: Any = redis.Redis.from_url(own_valkey.url)
    commands = (
        "+fcall +function|load +scard +sscan +srem +sadd +sismember +get +mget +set +del +exists"
        " +time +publish +pexpire +hget +hmget +hset +hsetnx +hdel +hlen +hscan +hgetall +hincrby"
        " +zadd +zrangebyscore +zremrangebyscore"
    )
    admin.execute_command(
        *("ACL", "SETUSER", "gate", "on", ">pass", "~{test}:*", "&{test}:*", *commands.split())
    )
    url = f"{own_valkey.url}?username=gate&password=pass"
    gate = _gate(url)
    assert gate.reconcile(list).finished
    gate.tell_balances([BALANCE])
    epoch = gate.take_lead("one", 60_000)
    assert epoch is not None
    shedding = Policy(level=Level.SHEDDING, admitted_per_s=1_000)
    assert gate.publish(shedding, epoch=epoch, lease_ms=60_000)
    assert gate.policy().current == shedding
    wanted = candidates(3, units=(Units(BALANCE.key, 1),))
    limits = Limits(gateways={"g-1": RateLimit(rate=10, burst=10)})
    verdicts = gate.admit(wanted, limits)
    assert [(v.admitted, v.level) for v in verdicts] == [(True, Level.SHEDDING)] * 3
    gate.release([wanted[0].intent_id])
    gate.settle([candidate.intent_id for candidate in wanted], b"told", [BALANCE])
    assert gate.in_flight() == 0
    assert gate.reconciled()
    assert gate.reconcile(list).finished


def test_a_client_with_hidden_retries_is_refused() -> None:
    """The gate's time limit is the client's: who repeats or waits without end breaks it."""
    with pytest.raises(ValueError, match="retry"):
        Gate(
            redis.Redis(socket_timeout=1, socket_connect_timeout=1),
            key_prefix="test",
            in_flight_max=1,
            unreconciled_rate=1,
        )


def _packed(**changes: Any) -> bytes:
    fields = {
        "bounds": [10, 3_000_000, 5],
        "unreconciled": [1_000.0, 10],
        "ordered": [],
        "shares": [100_000, 1_000_000, 2_000_000, 0.9, *[0.2, 0.9] * 4],
        "rates": [[1, 1_000.0, 5]],
        "keys": ["{test}:user:x"],
        "rate_of": [1],
        "gateways": ["g-1"],
        "balances": [],
        "balance_layers": [],
        "wants": [],
        "routes": [[]],
        "facts": [1, 0, 0],
        "takes": [1, 0, 1],
        "classes": [],
        "ttls_ms": [60_000],
    }
    assert not changes.keys() - fields.keys()
    return msgspec.msgpack.encode(list((fields | changes).values()))


def test_the_call_that_malformed_ones_differ_from_is_good(valkey_url: str) -> None:
    """Or nothing could be learned from those."""
    open_gate(valkey_url, reconciled=False).reconciled()
    client = redis.Redis.from_url(valkey_url)
    client.fcall("tidegate_admit_2", 8, *ADMIT_KEYS, "2", b"i" * 16, _packed())
    assert client.scard("{test}:in_flight") == 1


SHEDDING = [2, 100.0, 100.0, 1_000, -1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["2"],
        ["x", b"i" * 16, _packed()],
        ["2", b"i" * 15, _packed()],
        ["2", b"i" * 32, _packed()],
        ["2", b"i" * 16, b""],
        ["2", b"i" * 16, b"\xc1"],
        ["2", b"i" * 16, msgspec.msgpack.encode(7)],
        ["2", b"i" * 16, msgspec.msgpack.encode([1, 2, 3])],
        ["2", b"i" * 16, _packed(bounds=None)],
        ["2", b"i" * 16, _packed(bounds=[])],
        ["2", b"i" * 16, _packed(bounds=[10, 3_000_000])],
        ["2", b"i" * 16, _packed(ordered=[1])],
        ["2", b"i" * 16, _packed(ordered=["x", -1, -1, 0, -1])],
        ["2", b"i" * 16, _packed(ordered=SHEDDING, shares=[])],
        ["2", b"i" * 16, _packed(ordered=SHEDDING, gateways=[])],
        ["2", b"i" * 16, _packed(rates=[[1, 0, 5]])],
        ["2", b"i" * 16, _packed(rates=[[1, float("nan"), 5]])],
        ["2", b"i" * 16, _packed(rates=[[1, 1_000.0, 0]])],
        ["2", b"i" * 16, _packed(rates=[[1, "a", "b"]])],
        ["2", b"i" * 16, _packed(rate_of=[9])],
        ["2", b"i" * 16, _packed(keys=[[]])],
        ["2", b"i" * 16, _packed(takes=[9, 0, 1])],
        ["2", b"i" * 16, _packed(takes=[1, 0, 9])],
        ["2", b"i" * 16, _packed(facts=[])],
        ["2", b"i" * 16, _packed(classes=[5])],
        ["2", b"i" * 16, _packed(classes=[3, 3])],
        ["2", b"i" * 16, _packed(ttls_ms=[])],
        ["2", b"i" * 16, _packed(ttls_ms=[1, 2])],
        ["2", b"i" * 16, _packed(ordered=SHEDDING, ttls_ms=["x"])],
        ["2", b"i" * 16, _packed(unreconciled=None)],
        ["2", b"i" * 1_001 * 16, _packed(takes=[1, 0, 1] * 1_001)],
    ],
)
def test_a_malformed_call_writes_nothing(valkey_url: str, arguments: list[bytes | str]) -> None:
    """Whatever is wrong is found before the first write: a failed function is not rolled back."""
    open_gate(valkey_url, reconciled=False).reconciled()
    client = redis.Redis.from_url(valkey_url)
    with pytest.raises(redis.ResponseError):
        client.fcall("tidegate_admit_2", 8, *ADMIT_KEYS, *arguments)
    assert client.dbsize() == 0


def _told(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("function", "keys", "arguments"),
    [
        ("tidegate_settle_2", 4, ["2", b"i" * 16]),
        ("tidegate_settle_2", 4, ["2", b"i" * 17, "channel", "told", ""]),
        ("tidegate_settle_2", 4, ["2", b"i" * 16, "channel", "told", _told("stock:c:a", 1, 2)]),
        ("tidegate_release_2", 1, ["2", b"i" * 16]),
        ("tidegate_tell", 1, ["2", b"nothing packed"]),
        ("tidegate_tell", 1, ["2", _told("stock:c:a", 1, 2)]),
        ("tidegate_tell", 1, ["2", _told("stock:c:a", 1, 2, -3)]),
        ("tidegate_tell", 1, ["2", _told("stock:c:a", 1, float("nan"), 3)]),
        ("tidegate_lead", 2, ["2", "owner"]),
        ("tidegate_lead", 2, ["2", "owner", "0"]),
        ("tidegate_lead", 2, ["2", "owner", "soon"]),
        ("tidegate_publish", 2, ["2", "1", "1000", _told(0, -1, -1)]),
        ("tidegate_publish", 2, ["2", "1", "1000", _told(0, -1, -1), b"policy"]),
        ("tidegate_publish", 2, ["2", "1", "1000", _told(4, -1, -1, 1), b"policy"]),
        ("tidegate_publish", 2, ["2", "1", "1000", _told(0, float("nan"), -1, 1), b"policy"]),
        ("tidegate_publish", 2, ["2", "0", "1000", _told(0, -1, -1, 1), b"policy"]),
        ("tidegate_publish", 2, ["2", "1", "0.5", _told(0, -1, -1, 1), b"policy"]),
        ("tidegate_published", 2, ["2"]),
        ("tidegate_reconcile_units", 3, ["2"]),
        ("tidegate_reconcile_begin", 3, ["1", ""]),
        ("tidegate_reconcile_finish", 2, []),
        ("tidegate_state", 1, ["1"]),
    ],
)
def test_every_function_checks_its_call(
    valkey_url: str, function: str, keys: int, arguments: list[bytes | str]
) -> None:
    """A call of the wrong shape is answered with TIDEGATE_USAGE."""
    open_gate(valkey_url, reconciled=False).reconciled()
    client = redis.Redis.from_url(valkey_url)
    with pytest.raises(redis.ResponseError, match=r"^TIDEGATE_USAGE "):
        client.fcall(function, keys, *[f"key-{n}" for n in range(keys)], *arguments)
    assert client.dbsize() == 0
