"""Intents that come by Celery: signed, read strictly, journalled; everything else is dropped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kit import World, comes_true

from config.settings import Broker, Postgres, Secrets, Settings, Valkey, to_environ
from producer import celery_intake
from producer.celery_intake import INTENTS_MAX, KEY_ID_HEADER, SIGNATURE_HEADER, canonical
from tests.factories import GATEWAY, MASTER
from workers.contract.celery_app import make_app
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE, SUBMIT_INTENT_TASK
from workers.contract.signing import sign, signing_key

Json = dict[str, Any]
KEY_ID = "key-1"
OLD_MASTER = "an earlier secret " * 2
THREADS = ("publisher", "levels", "limits")  # of an intake


def _settings(world: World) -> Settings:
    return Settings(
        postgres=Postgres(dsn=world.dsn),
        valkey=Valkey(url=world.valkey_url),
        broker=Broker(publish_timeout_ms=1_000),
        secrets=Secrets(master=MASTER, old_masters=(OLD_MASTER,)),
    )


def _intent(number: int = 1, **fields: Any) -> Json:
    return {
        "user_id": f"u-{number}",
        "campaign_id": "spring",
        "lines": [{"sku": "tea", "quantity": 1}],
        "idempotency_key": f"key-{number}",
        "submitted_at": datetime.now(UTC).isoformat(),
        **fields,
    }


def _headers(intents: object, key_id: str = KEY_ID, master: str = MASTER) -> Json:
    signature = sign(canonical(intents), signing_key(master, key_id))
    return {KEY_ID_HEADER: key_id, SIGNATURE_HEADER: signature}


@pytest.fixture
def gateway(world: World) -> World:
    """A gateway that may order, another that may only read, and a key that was revoked."""
    for name, scopes in ((GATEWAY, ["intents:write"]), ("reader", ["intents:read"])):
        world.admin.execute("INSERT INTO gateways VALUES (%s, %s)", (name, scopes))
    for key_id, name, revoked in (
        (KEY_ID, GATEWAY, None),
        ("reading", "reader", None),
        ("revoked", GATEWAY, datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        world.admin.execute(
            "INSERT INTO gateway_keys (key_id, gateway_id, key_hash, revoked_at)"
            " VALUES (%s, %s, sha256(%s::text::bytea), %s)",
            (key_id, name, key_id, revoked),
        )
    return world


@pytest.fixture
def submit(gateway: World) -> Iterator[Callable[[object, Json], None]]:
    """Run the task as a worker would, on the real servers; it must not raise."""
    settings = _settings(gateway)
    app = make_app(settings)
    desk = celery_intake._Desk(app, settings)
    celery_intake.register_submit_intent(app, desk.gateway_of, desk.submit)
    app.finalize()

    def run(intents: object, headers: Json) -> None:
        result = app.tasks[SUBMIT_INTENT_TASK].apply((intents,), headers=headers)
        assert result.state == "SUCCESS", result.traceback

    yield run
    desk.close()
    assert [one.name for one in threading.enumerate() if one.name in THREADS] == []


def _journalled(world: World) -> list[tuple[str, str]]:
    return world.rows("SELECT gateway_id, user_id FROM intents ORDER BY user_id")  # type: ignore[return-value]


Submit = Callable[[object, Json], None]


def test_a_signed_list_is_journalled_and_decided_like_any_other(
    gateway: World, submit: Submit
) -> None:
    """Same admission, journal and outcome as over HTTP; sent again it is the same intent."""
    intents = [_intent(1, locale="el"), _intent(2)]
    submit(intents, _headers(intents))
    submit(intents, _headers(intents))
    assert _journalled(gateway) == [(GATEWAY, "u-1"), (GATEWAY, "u-2")]
    assert gateway.processor().run([]).outcomes == {"committed": 2}
    gateway.assert_clean()


def test_the_order_of_fields_does_not_matter_to_the_signature(
    gateway: World, submit: Submit
) -> None:
    """What is signed is the list, not one spelling of it."""
    intents = [dict(reversed(_intent().items()))]
    submit(intents, _headers([_intent(1, submitted_at=intents[0]["submitted_at"])]))
    assert len(_journalled(gateway)) == 1


def test_an_earlier_master_still_signs(gateway: World, submit: Submit) -> None:
    """Rotating the master does not silence the gateways."""
    submit([_intent()], _headers([_intent()]))
    intents = [_intent()]
    submit(intents, _headers(intents, master=OLD_MASTER))
    assert len(_journalled(gateway)) == 1


def _signed_by(key_id: str) -> Callable[[Any], Json]:
    return lambda intents: _headers(intents, key_id)


def _unsigned(intents: Any) -> Json:
    return {KEY_ID_HEADER: KEY_ID}


def _signed_with_nothing(intents: Any) -> Json:
    return {KEY_ID_HEADER: KEY_ID, SIGNATURE_HEADER: ""}


def _signed_with_an_object(intents: Any) -> Json:
    return {KEY_ID_HEADER: [KEY_ID], SIGNATURE_HEADER: {"$ne": ""}}


def _signed_in_another_name(intents: Any) -> Json:
    return _headers(intents, "reading") | {KEY_ID_HEADER: KEY_ID}


def _signed_before_it_was_changed(intents: Any) -> Json:
    return _headers([{**intents[0], "user_id": "u-2"}])


def _signed_with_another_secret(intents: Any) -> Json:
    return _headers(intents, master="the secret of some other deployment")


@pytest.mark.parametrize(
    "headers",
    [
        lambda intents: {},
        _unsigned,
        _signed_with_nothing,
        _signed_with_an_object,
        _signed_in_another_name,
        _signed_before_it_was_changed,
        _signed_with_another_secret,
        _signed_by("revoked"),
        _signed_by("reading"),
        _signed_by("nobody's"),
    ],
)
def test_what_no_entitled_live_key_signed_is_dropped(
    gateway: World, submit: Submit, headers: Callable[[Any], Json]
) -> None:
    """The broker is untrusted: only the gateway's signature over this very body counts."""
    intents = [_intent()]
    submit(intents, headers(intents))
    assert _journalled(gateway) == []


_NOW = datetime.now(UTC)
_DEEP: list[Any] = []
for _ in range(50_000):
    _DEEP = [_DEEP]


@pytest.mark.parametrize(
    "intents",
    [
        [],
        None,
        "an intent",
        _intent(),
        [_intent(n) for n in range(INTENTS_MAX + 1)],
        [_intent(1), _intent(2, price=1)],
        [_intent(1), _intent(2, lines=[{"sku": "tea", "quantity": 1.0}])],
        [_intent(lines=[{"sku": "tea", "quantity": True}])],
        [_intent(lines=[{"sku": "tea", "quantity": 2**70}])],
        [_intent(idempotency_key=None)],
        [_intent(user_id="u\n1")],
        [_intent(submitted_at="yesterday")],
        [_intent(submitted_at=_NOW.replace(tzinfo=None).isoformat())],
        [_intent(submitted_at=(_NOW - timedelta(seconds=61)).isoformat())],
        [_intent(submitted_at=(_NOW - timedelta(seconds=2)).isoformat(), ttl_ms=1_000)],
        [_intent(submitted_at=(_NOW + timedelta(hours=1)).isoformat())],
        [_intent(conversation_id="c" * (1 << 20))],
    ],
    ids=lambda intents: repr(intents)[:40],
)
def test_what_is_signed_but_malformed_or_too_old_is_dropped_whole(
    gateway: World, submit: Submit, intents: Any
) -> None:
    """A signature is no licence: the shape is as strict as over HTTP."""
    submit(intents, _headers(intents))
    assert _journalled(gateway) == []


@pytest.mark.parametrize("intents", [["\ud800"], [{1: 2}], _DEEP], ids=["text", "keys", "depth"])
def test_what_has_no_canonical_form_is_dropped(
    gateway: World, submit: Submit, intents: Any
) -> None:
    """Nobody can have signed it."""
    submit(intents, {KEY_ID_HEADER: KEY_ID, SIGNATURE_HEADER: "0" * 64})
    assert _journalled(gateway) == []


# A real worker -----------------------------------------------------------------------------------


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self._marker),)


@pytest.fixture
def worker(gateway: World) -> Iterator[subprocess.Popen[bytes]]:
    """`tidegate worker` as production runs it, ready to take messages."""
    environ = {**os.environ, **to_environ(_settings(gateway))}
    program = [sys.executable, "-m", "deploy.cli", "worker"]
    with subprocess.Popen(program, env=environ, stderr=subprocess.PIPE) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        finally:
            process.kill()


def _push(app: Celery, body: Any, queue: str, **message: Any) -> None:
    with app.producer_pool.acquire(block=True, timeout=1) as producer:
        producer.publish(body, exchange="", routing_key=queue, retry=False, **message)


@pytest.mark.slow
def test_whatever_lies_in_the_queues_no_code_of_it_runs_and_the_worker_lives(
    gateway: World, worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Pickle, YAML, unknown tasks and rubbish are rejected; the signed intent after them is served."""
    app = make_app(_settings(gateway))
    marker = tmp_path / "ran"
    bomb = pickle.dumps(((_Bomb(marker),), {}, {}))
    for queue in (INTAKE_QUEUE, ORDERS_QUEUE):
        for task in (SUBMIT_INTENT_TASK, "os.system"):
            headers = {"task": task, "id": f"{task}-{queue}", "lang": "py"}
            for content_type in ("application/x-python-serialize", "application/x-yaml"):
                _push(
                    app,
                    bomb,
                    queue,
                    headers=headers,
                    content_type=content_type,
                    content_encoding="binary",
                )
        _push(app, [[], {}, {}], queue, headers={"task": "celery.backend_cleanup", "id": "x"})
        _push(app, {"no": "task"}, queue)
        app.send_task("tidegate.process_batch", args=([["x"]],), routing_key=queue, exchange="")
        app.send_task("tidegate.process_batch", args=(1, 2, 3), routing_key=queue, exchange="")
        app.send_task(SUBMIT_INTENT_TASK, args=(), routing_key=queue, exchange="")
        with redis.Redis.from_url(gateway.valkey_url) as client:
            client.lpush(queue, b"no JSON", b"\xff\xfe", b"[1, 2]", b"{}", b'{"properties": {}}')
    intents = [_intent()]
    app.send_task(
        SUBMIT_INTENT_TASK,
        args=(intents,),
        headers=_headers(intents),
        exchange="",
        routing_key=INTAKE_QUEUE,
    )
    assert comes_true(lambda: gateway.reasons() == {"committed": 1}, 30)
    with redis.Redis.from_url(gateway.valkey_url) as client:
        assert comes_true(lambda: client.llen(INTAKE_QUEUE) == client.llen(ORDERS_QUEUE) == 0)
    assert not marker.exists()
    assert worker.poll() is None
    gateway.assert_clean()
