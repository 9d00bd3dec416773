"""Whoever can write to the broker's lists can delay work, and do nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from kit import World, comes_true, ids_of, order
from own_processes import settings_of

from config.settings import to_environ
from workers.contract.celery_app import make_app
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE, PROCESS_BATCH_TASK
from workers.runtime.worker import HINT_IDS_MAX

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """`tidegate worker` as production runs it."""
    environ = {**os.environ, **to_environ(settings_of(world.dsn, world.valkey_url, 0))}
    program = [sys.executable, "-m", "deploy.cli", "worker"]
    with subprocess.Popen(program, env=environ, stdout=subprocess.DEVNULL) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()


def books(world: World) -> list[Any]:
    """All that was sold, given, spent and told."""
    return [
        world.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("outcomes", "orders", "order_lines", "coupons", "ledger", "stock", "budgets")
    ]


def test_no_message_changes_what_was_decided_or_decides_what_nobody_wished(
    world: World, worker: subprocess.Popen[bytes]
) -> None:
    """Forged ids, altered arguments, options of Celery's own, and sizes; the worker goes on."""
    app = make_app(settings_of(world.dsn, world.valkey_url, 0))
    done = [order("u-1"), order("u-2", lines=[("bun", 1)])]
    world.intake().submit(done)
    world.processor().run(ids_of(done))
    before = books(world)
    ids = [one.hex for one in ids_of(done)]
    for hostile in _hostile(ids):
        _send(app, **hostile)
    with redis.Redis.from_url(world.valkey_url) as client:
        for queue in (ORDERS_QUEUE, INTAKE_QUEUE):
            client.lpush(queue, b"{" * 1_000, b"[" * 100_000, b"\x80\x04." * 9, b"null", b'"x"')
            client.lpush(queue, json.dumps({"body": "x" * 5_000_000, "properties": {}}))
        assert comes_true(lambda: client.llen(ORDERS_QUEUE) == client.llen(INTAKE_QUEUE) == 0, 60)
    good = order("u-3")
    world.intake().submit([good])
    _send(app, [[good.intent_id.hex]])
    assert comes_true(lambda: world.open_count() == 0, 60)
    assert worker.poll() is None
    assert world.reasons() == {"committed": 3}
    assert all(
        row in now for was, now in zip(before[:2], books(world), strict=False) for row in was
    )
    assert world.stock_of()[2] + world.stock_of()[1] == 2
    world.assert_clean()


def _hostile(ids: list[str]) -> list[dict[str, Any]]:
    unknown = [uuid4().hex for _ in range(50)]
    signature = {"task": "os.system", "args": ["true"], "kwargs": {}, "options": {"queue": "q"}}
    return [
        {"args": [ids]},
        {"args": [ids * 2_000]},
        {"args": [unknown]},
        {"args": [[*ids, *unknown, "", "x", "0" * 31]]},
        {"args": [["0" * 32] * (HINT_IDS_MAX + 1)]},
        {"args": ["x" * 5_000_000]},
        {"args": [[None, 1, {}, [], True, 1e308]]},
        {"args": [{"intent_ids": ids, "price": 0}]},
        {"args": [ids, "committed"]},
        {"args": [], "kwargs": {"intent_ids": ids}},
        {"args": [ids], "kwargs": {"self": 1, "decide": "committed"}},
        {"args": [ids], "embed": {"callbacks": [signature], "errbacks": [signature]}},
        {"args": [ids], "embed": {"chain": [signature], "chord": signature}},
        {"args": [ids], "embed": {"callbacks": 7, "chain": "x", "chord": []}},
        {"args": [ids], "expires": "1970-01-01T00:00:00+00:00"},
        {"args": [ids], "expires": "never", "eta": "never", "retries": "many"},
        {"args": [ids], "timelimit": ["x", -1], "group": {}, "shadow": {"a": 1}},
        {"args": [ids], "reply_to": "somebody", "ignore_result": False},
        {"args": [ids], "traceparent": "00-" + "f" * 4_000},
        {"task": "celery.chord", "args": [ids]},
        {"task": "celery.accumulate", "args": ids},
        {"task": "tidegate.prune", "args": []},
        {"task": {"$ne": 1}, "args": [ids]},
    ]


def _send(
    app: Celery, args: Any, kwargs: Any = None, embed: Any = None, task: Any = None, **headers: Any
) -> None:
    """Send a message of Celery's second protocol, with whatever in it."""
    whole = {"lang": "py", "task": task or PROCESS_BATCH_TASK, "id": uuid4().hex, **headers}
    body = [args, kwargs or {}, embed or {}]
    with app.producer_pool.acquire(block=True, timeout=2) as producer:
        producer.publish(
            body,
            exchange="",
            routing_key=ORDERS_QUEUE,
            headers=whole,
            retry=False,
            serializer="json",
        )


def test_no_worker_listens_to_remote_control(world: World, worker: subprocess.Popen[bytes]) -> None:
    """`shutdown`, sent as Celery's own tools send it, reaches nobody; nor does any other command."""
    app = make_app(settings_of(world.dsn, world.valkey_url, 0))
    first = order("u-1")
    world.intake().submit([first])
    _send(app, [[first.intent_id.hex]])
    assert comes_true(lambda: world.reasons() == {"committed": 1}, 60)
    with redis.Redis.from_url(world.valkey_url) as client:
        assert [one for one in client.pubsub_channels() if b"pidbox" in one] == []
        assert client.pubsub_numpat() == 0
    assert app.control.ping(timeout=0.5) == []
    for command in ("shutdown", "pool_restart", "rate_limit"):
        app.control.broadcast(command)
    second = order("u-2")
    world.intake().submit([second])
    _send(app, [[second.intent_id.hex]])
    assert comes_true(lambda: world.reasons() == {"committed": 2}, 60)
    assert worker.poll() is None
