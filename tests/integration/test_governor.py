"""The governor on real servers: what it sees, what that costs, and who leads when one dies."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from config.settings import Governor as GovernorSettings
from config.settings import Postgres, Secrets, Settings, Valkey, to_environ
from tests.factories import MASTER, add_campaign, one, open_gate, open_shop, owner
from workers.contract.admission import Balance
from workers.contract.gate import Gate, open_client
from workers.contract.ids import uuid7_many
from workers.contract.names import gate_names
from workers.contract.webhook import WebhookSecrets
from workers.domain.overload import Level, Policy
from workers.runtime.bootstrap import announcer
from workers.runtime.governor import _Duties, build_governor, build_level_noter
from workers.runtime.hearing import Listener
from workers.runtime.looking import PostgresLooker, Probe, memory_share
from workers.service.govern import TickReport
from workers.store import gateways, webhooks
from workers.store.load import COUNTED_MAX, LoadReader, read_balances
from workers.store.pool import WORKER, Bounds, Connection, connect

ROOT = Path(__file__).parents[2]
LEASE_MS = 1_000


def settings_of(dsn: str, valkey_url: str) -> Settings:
    return Settings(
        postgres=Postgres(dsn=dsn),
        valkey=Valkey(url=valkey_url, key_prefix="tidegate:"),  # as of `factories.open_gate`
        secrets=Secrets(master=MASTER),
        governor=GovernorSettings(interval_ms=100, lease_ms=LEASE_MS),
    )


@pytest.fixture
def worker(dsn: str) -> Iterator[Connection]:
    """A connection with the rights that the governor has."""
    with connect(dsn, WORKER, Bounds(), name="test-governor") as connection:
        connection.execute("SET enable_seqscan = off")
        yield connection


class Processes:
    """Governors, each a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self.gate = open_gate(settings.valkey.url)
        self._valkey_url = settings.valkey.url
        self._environ = {**os.environ, **to_environ(settings), "PYTHONPATH": str(ROOT)}
        self._open = ExitStack()

    def start(self) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "governor"], env=self._environ, cwd=ROOT
        )
        self._open.callback(made.wait)
        self._open.callback(made.kill)
        return made

    def lead(self) -> subprocess.Popen[bytes]:
        """Start one and wait until it leads."""
        before = self.gate.policy().epoch
        made = self.start()
        assert self.epoch_above(before) > before
        return made

    def epoch_above(self, epoch: int, within_s: float = 20) -> int:
        """Wait for a higher epoch to publish; return the epoch then."""
        until = time.monotonic() + within_s
        while time.monotonic() < until and self.gate.policy().epoch <= epoch:
            time.sleep(0.01)
        return self.gate.policy().epoch

    @contextmanager
    def seen(self) -> Iterator[Callable[[int], set[str]]]:
        """Yield what waits until the lead was asked for so often, and returns who asked."""
        client = redis.Redis.from_url(self._valkey_url, socket_timeout=20)
        with client, client.monitor() as monitor:

            def turns(count: int, within_s: float = 20) -> set[str]:
                who, until = [], time.monotonic() + within_s
                while len(who) < count:
                    assert time.monotonic() < until, f"{len(who)} turns of {count}"
                    told = monitor.next_command()
                    if told["command"].startswith("FCALL tidegate_lead "):
                        who.append(f"{told['client_address']}:{told['client_port']}")
                return set(who)

            yield turns

    def close(self) -> None:
        self._open.close()


@contextmanager
def processes(dsn: str, valkey_url: str) -> Iterator[Processes]:
    opened = Processes(settings_of(dsn, valkey_url))
    try:
        yield opened
    finally:
        opened.close()


# Who leads -----------------------------------------------------------------------------------------


def test_a_governor_publishes_until_sigterm_and_then_hands_over(dsn: str, valkey_url: str) -> None:
    with processes(dsn, valkey_url) as world:
        leader = world.lead()
        assert world.gate.policy().current is not None
        leader.send_signal(signal.SIGTERM)
        assert leader.wait(5) == 0
        assert (
            world.gate.take_lead("test", LEASE_MS) is not None
        )  # not kept for the rest of a lease


def test_when_the_leader_is_killed_another_takes_over_within_the_lease(
    dsn: str, valkey_url: str
) -> None:
    with processes(dsn, valkey_url) as world:
        leader = world.lead()
        world.start()
        with world.seen() as turns:
            until = time.monotonic() + 20
            while len(turns(1) | turns(1)) < 2:  # until the other watches
                assert time.monotonic() < until
        epoch = world.gate.policy().epoch
        leader.kill()
        killed_at = time.monotonic()
        assert world.epoch_above(epoch) > epoch
        assert time.monotonic() - killed_at < LEASE_MS / 1_000 + 0.5


def test_a_leader_that_was_stopped_publishes_nothing_when_it_wakes(
    dsn: str, valkey_url: str
) -> None:
    """Whatever it was about to say, and however often it is stopped in the midst of it."""
    with processes(dsn, valkey_url) as world:
        asleep = world.lead()
        for _ in range(3):
            asleep.send_signal(signal.SIGSTOP)
            epoch = None
            while epoch is None:
                time.sleep(0.02)
                epoch = world.gate.take_lead("test", 60_000)
            told = Policy(level=Level.SHEDDING, reason="test")
            assert world.gate.publish(told, epoch=epoch, lease_ms=60_000)
            with world.seen() as turns:
                asleep.send_signal(signal.SIGCONT)
                turns(3)  # whatever it was in the midst of is over
            published = world.gate.policy()
            assert (published.epoch, published.policy) == (epoch, told)
            world.gate.take_lead("test", 1)
            assert world.epoch_above(epoch) > epoch


# What it sees --------------------------------------------------------------------------------------


@contextmanager
def listening(valkey_url: str) -> Iterator[Listener]:
    listener = Listener(
        lambda: open_client(valkey_url, timeout_ms=1_000), gate_names("tidegate:").outcome_channel
    )
    listener.start()
    try:
        assert listener.listening.wait(5)
        listener.take()
        yield listener
    finally:
        listener.close()


def test_every_outcome_is_heard_of_once_with_its_sojourn_time(dsn: str, valkey_url: str) -> None:
    """What is heard is what the table of outcomes holds: within two in a hundred, and here exactly."""
    add_campaign(dsn, stock={"tea": 100_000, "bun": 100_000})
    with open_shop(dsn, valkey_url) as shop, listening(valkey_url) as listener:
        shop.processor._announce = announcer(open_gate(valkey_url))
        for start in range(0, 2_000, 400):
            shop.accept(*(shop.order(f"u-{n}") for n in range(start, start + 400)))
            time.sleep(0.05)
            shop.work()
        heard, sojourns_ms, until = 0, [], time.monotonic() + 5
        decided = one(dsn, "SELECT count(*) FROM outcomes")
        while heard < decided and time.monotonic() < until:
            found = listener.take()
            assert found is not None
            heard += found.decided
            sojourns_ms += found.sojourns_ms
            time.sleep(0.02)
        assert (heard, decided) == (2_000, 2_000)
        longest = one(
            dsn,
            "SELECT max(extract(epoch FROM decided_at - accepted_at))::float8 * 1000"
            " FROM outcomes JOIN intents USING (intent_id)",
        )
        assert 50 <= min(sojourns_ms) <= max(sojourns_ms) <= longest + 0.01


def test_a_listener_that_was_cut_off_says_that_it_does_not_know(valkey_url: str) -> None:
    with listening(valkey_url) as listener, redis.Redis.from_url(valkey_url) as client:
        assert listener.take() is not None
        client.client_kill_filter(_type="pubsub")
        until = time.monotonic() + 5
        while (found := listener.take()) is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert found is None
        assert listener.listening.wait(5)
        listener.take()
        assert listener.take() is not None


def test_the_oldest_that_may_be_claimed_is_what_counts(dsn: str, worker: Connection) -> None:
    """Not one that is kept back after a failure of its own: it must not close the shop."""
    add_open(dsn, [(9_000, 4_000, 60_000), (3_000, 1_000, 0), (2_000, -2_000, 0)])
    load = LoadReader().read(worker)
    assert load.oldest_ms == pytest.approx(3_000, abs=500)
    assert load.overdue_ms == pytest.approx(1_000, abs=500)
    assert load.open_count == 3
    assert 0 < load.connections_share < 1
    assert load.ordered is None


def test_nothing_open_has_no_age(worker: Connection) -> None:
    load = LoadReader().read(worker)
    assert (load.oldest_ms, load.overdue_ms, load.open_count) == (None, None, 0)


def test_an_intent_that_was_passed_over_is_found_within_a_second(
    dsn: str, worker: Connection
) -> None:
    reader = LoadReader()
    ids = add_open(dsn, [(5_000, 0, 60_000), (1_000, 0, 0)])
    assert reader.read(worker).oldest_ms == pytest.approx(1_000, abs=500)
    with owner(dsn) as connection:
        connection.execute(
            "UPDATE open_intents SET retry_after = NULL WHERE intent_id = %s", (ids[0],)
        )
    until = time.monotonic() + 10
    while (reader.read(worker).oldest_ms or 0) < 4_500:
        assert time.monotonic() < until
        time.sleep(0.02)


def add_open(dsn: str, ages: list[tuple[int, int, int]]) -> list[Any]:
    """Open intents of these ages, hints overdue by so much, and kept back for so long; all in ms."""
    ids = uuid7_many(len(ages))
    with owner(dsn) as connection:
        for intent_id, (age, overdue, kept) in zip(ids, ages, strict=True):
            connection.execute(
                """INSERT INTO open_intents (intent_id, accepted_at, dispatch_after, retry_after)
                   VALUES (%s, now() - %s * interval '1 ms', now() - %s * interval '1 ms',
                           CASE WHEN %s > 0 THEN now() + %s * interval '1 ms' END)""",
                (intent_id, age, overdue, kept, kept),
            )
    return ids


@pytest.mark.slow
def test_a_look_costs_two_milliseconds_with_half_a_million_open_intents(
    dsn: str, worker: Connection
) -> None:
    with owner(dsn) as connection:
        connection.execute(
            """INSERT INTO open_intents (intent_id, accepted_at, dispatch_after)
               SELECT uuid7_floor(now() - n * interval '1 ms'), now() - n * interval '1 ms', now()
               FROM generate_series(1, 500000) AS n"""
        )
        connection.execute("DELETE FROM open_intents WHERE accepted_at < now() - interval '450 s'")
    reader = LoadReader()
    for _ in range(8):
        load = reader.read(worker)
    took_ms = []
    for _ in range(40):
        began = time.perf_counter()
        reader.read(worker)
        took_ms.append((time.perf_counter() - began) * 1_000)
    took_ms.sort()
    print(f"a look: median {took_ms[20]:.2f} ms, longest {took_ms[-1]:.2f} ms")
    assert took_ms[20] < 2
    assert load.open_count > COUNTED_MAX
    assert load.open_count == pytest.approx(450_000, rel=0.02)


def test_balances_are_those_of_the_tables_with_what_is_scarce(dsn: str, worker: Connection) -> None:
    add_campaign(dsn, stock={"tea": 5, "bun": 6}, budget=5 * 2_500)
    add_campaign(dsn, "rich", stock={"ice": 1}, budget=6 * 2_500)
    with owner(dsn) as connection:
        connection.execute("UPDATE stock SET available = 4, sold = 1 WHERE sku = 'tea'")
        connection.execute(
            "UPDATE campaigns SET starts_at = now() - interval '2 s', ends_at = now()"
            " WHERE campaign_id = 'rich'"
        )
    assert sorted(read_balances(worker, 5), key=lambda pair: pair[0].key) == [
        (Balance("budget:spring", 0, 12_500, 0), True),
        (Balance("stock:spring:bun", 0, 6, 0), False),
        (Balance("stock:spring:tea", 1, 4, 0), True),
    ]


def test_the_share_of_valkeys_memory_is_known_only_where_it_has_a_bound(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        try:
            client.config_set("maxmemory", "1gb")
            share = memory_share(client)
            assert share is not None
            assert 0 < share < 0.5
            client.config_set("maxmemory", "0")
            assert memory_share(client) is None
        finally:
            client.config_set("maxmemory", before)


def test_a_look_after_a_lost_connection_opens_another(dsn: str) -> None:
    opened: list[Connection] = []

    def open_connection() -> Connection:
        opened.append(connect(dsn, WORKER, Bounds(), name="test-governor"))
        return opened[-1]

    looker = PostgresLooker(open_connection, 60, 100)
    assert looker.read().balances == []
    with owner(dsn) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tidegate-test-governor' AND datname = current_database()"
        )
    with pytest.raises(Exception, match=r"terminat|closed"):
        looker.read()
    assert looker.read().balances is None  # read a moment ago
    assert len(opened) == 2


# The whole of it -----------------------------------------------------------------------------------


def test_a_backlog_pauses_issuance_and_tells_the_gate_what_is_scarce(
    dsn: str, valkey_url: str
) -> None:
    """Accepted and not decided: the silence asks for more than `normal` within seconds."""
    add_campaign(dsn)
    gate = open_gate(valkey_url)
    with open_shop(dsn, valkey_url) as shop, listening(valkey_url) as listener:
        governor = build_governor(settings_of(dsn, valkey_url), listener)
        governor.tick()
        governor.tick()
        shop.accept(*(shop.order(f"u-{n}") for n in range(50)))
        reached = tick_until(governor, gate, Level.THROTTLED, within_s=8)
        assert reached.reason == "wait"
        with redis.Redis.from_url(valkey_url) as client:
            told = client.hgetall(gate_names("tidegate:").balances)
        assert set(told) == {b"stock:spring:tea", b"stock:spring:bun", b"budget:spring"}


def test_while_postgresql_is_away_the_level_is_closed_and_the_lead_is_kept(
    dsn: str, valkey_url: str
) -> None:
    gate = open_gate(valkey_url)
    with listening(valkey_url) as listener:
        away = settings_of("postgresql://127.0.0.1:1/none", valkey_url)
        governor = build_governor(away, listener)
        epoch = governor.tick().epoch
        reached = tick_until(governor, gate, Level.CLOSED, within_s=8)
        assert reached.reason == "postgres"
        assert gate.policy().epoch == epoch


def tick_until(governor: Any, gate: Gate, level: Level, within_s: float) -> Policy:
    """Tick until the level is published; return the policy."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        governor.tick()
        policy = gate.policy().current
        if policy is not None and policy.level is level:
            return policy
        time.sleep(0.1)
    raise AssertionError(f"not {level} within {within_s} s: {gate.policy()}")


def test_the_lead_is_kept_while_postgresql_hangs(dsn: str, valkey_url: str) -> None:
    """A stopped server keeps its sockets open and answers nothing; the tick goes on."""
    gate = open_gate(valkey_url)
    held = threading.Event()
    with listening(valkey_url) as listener:
        governor = build_governor(settings_of(dsn, valkey_url), listener)
        epoch = governor.tick().epoch
        governor.tick()
        hang = governor._sources._postgres  # type: ignore[attr-defined]
        hang._read = lambda: held.wait(30)
        longest = 0.0
        for _ in range(12):
            began = time.monotonic()
            assert governor.tick().published
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.05)
        assert longest < LEASE_MS / 1_000
        assert gate.policy().epoch == epoch
        held.set()


# What it notes -------------------------------------------------------------------------------------


def wanting_levels(dsn: str) -> None:
    """Let a gateway's endpoint want to hear of changes of the level."""
    with owner(dsn) as connection:
        gateways.create_gateway(connection, "chat", ["intents:write"], actor="test")
        secrets = WebhookSecrets(MASTER)
        url, events = "https://hooks.example/", ["tidegate.level.changed"]
        webhooks.register(connection, secrets, "chat", url, events, actor="test")


def noted(dsn: str) -> list[tuple[str, str, str]]:
    """Level, level before, and reason, of each change in the outbox."""
    with owner(dsn) as connection:
        return connection.execute(
            "SELECT data->>'level', data->>'before', data->>'reason' FROM outbox ORDER BY entry_id"
        ).fetchall()


def told(level: Level, since_ms: int, **more: Any) -> TickReport:
    """What a tick reports that has published this level."""
    policy = Policy(level=level, reason="wait", since_ms=since_ms)
    return TickReport(epoch=1, published=True, policy=policy, **more)


def test_each_change_of_level_is_noted_once_and_a_restart_repeats_none(
    dsn: str, valkey_url: str
) -> None:
    wanting_levels(dsn)
    now_ms = time.time_ns() // 1_000_000
    for _ in range(2):  # the process, and the one that follows it
        note = build_level_noter(settings_of(dsn, valkey_url))
        for _ in range(2):
            note(told(Level.SHEDDING, now_ms))
    assert noted(dsn) == [("shedding", "normal", "wait")]
    note(told(Level.NORMAL, now_ms + 1))
    assert noted(dsn)[1:] == [("normal", "shedding", "wait")]


def test_an_operators_order_is_noted_and_so_is_its_end(dsn: str, valkey_url: str) -> None:
    """However long the governor has said its own word, it is in force again from then on."""
    wanting_levels(dsn)
    note = build_level_noter(settings_of(dsn, valkey_url))
    with owner(dsn) as connection:
        connection.execute("INSERT INTO level_orders (level, reason) VALUES ('closed', 'a drill')")
        for _ in range(2):
            ordered = LoadReader().read(connection).ordered
            note(told(Level.NORMAL, 1_000, ordered=ordered))
        connection.execute("DELETE FROM level_orders")
        for _ in range(2):
            note(told(Level.NORMAL, 1_000))
    assert [change[:2] for change in noted(dsn)] == [("closed", "normal"), ("normal", "closed")]


def test_a_duty_is_the_leaders_alone() -> None:
    """Whoever watches another, or was told that its epoch is past, notes nothing."""
    ran: list[TickReport] = []
    done = threading.Event()

    def note(report: TickReport) -> None:
        ran.append(report)
        done.set()

    duties = _Duties({"note": note})
    leads = told(Level.NORMAL, 2_000)
    duties.run(TickReport(policy=Policy(level=Level.SHEDDING)))
    duties.run(TickReport(epoch=1, policy=Policy(level=Level.CLOSED)))
    duties.run(leads)
    assert done.wait(5)
    assert ran == [leads]


def test_a_probe_asks_one_question_at_a_time_and_leaves_no_thread() -> None:
    """A question that hangs keeps the next from being put, and nobody from going on."""
    held, asked = threading.Event(), itertools.count(1)

    def read() -> int:
        number = next(asked)
        assert number != 2 or held.wait(30)
        return number

    probe = Probe("test", read, timeout_s=60)
    probe.ask()
    assert probe.answer(5).value == 1
    probe.ask()
    assert probe.answer(0).value is None
    probe.ask()
    held.set()
    assert probe.answer(5).value == 2
    probe.ask()
    assert probe.answer(5).value == 3
    until = time.monotonic() + 5
    while any(one.name == "probe test" for one in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
