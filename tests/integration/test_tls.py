"""Both servers over TLS: who they are is proven, or nothing is said to them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import psycopg
import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from own_processes import settings_of
from tls_proxy import (
    Authority,
    TlsProxy,
    authority,
    postgres_over_tls,
    proxied,
    valkey_over_tls,
)

from config.settings import Broker, Settings
from tests import programs
from workers.contract.celery_app import make_app
from workers.contract.gate import GateUnreachable, open_client, open_gate
from workers.store.pool import PRODUCER, Bounds, connect


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who certifies `localhost`."""
    programs.find("openssl", "openssl")
    return authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Authority:
    """Whom nobody here trusts."""
    return authority(tmp_path_factory.mktemp("others"))


@pytest.fixture
def valkey(valkey_url: str, ours: Authority) -> Iterator[TlsProxy]:
    with proxied(valkey_url, ours) as proxy:
        yield proxy


@pytest.fixture
def postgres(dsn: str, ours: Authority) -> Iterator[TlsProxy]:
    with proxied(dsn, ours) as proxy:
        yield proxy


def test_gate_broker_and_journal_speak_tls(
    valkey_url: str, dsn: str, valkey: TlsProxy, postgres: TlsProxy, ours: Authority
) -> None:
    url = valkey_over_tls(valkey_url, valkey.port, ours.ca)
    settings = settings_of(dsn, url, 0)
    assert open_gate(settings).in_flight() == 0
    with make_app(settings).connection_for_write() as connection:
        assert connection.default_channel.client.ping()
    assert valkey.admitted == 2
    with connect(
        postgres_over_tls(dsn, postgres.port, ours.ca), PRODUCER, Bounds(), name="test"
    ) as session:
        assert session.execute("SELECT 1").fetchall() == [(1,)]
    assert postgres.admitted == 1


@pytest.mark.parametrize(
    "fault", ["of nobody we trust", "by the system's authorities", "of another"]
)
def test_a_certificate_that_proves_nothing_is_refused(
    fault: str,
    valkey_url: str,
    dsn: str,
    valkey: TlsProxy,
    postgres: TlsProxy,
    ours: Authority,
    others: Authority,
) -> None:
    """By the gate, by Celery's broker, by PostgreSQL's client alike."""
    ca = {"of nobody we trust": others.ca, "of another": ours.ca}.get(fault)
    host = "127.0.0.1" if fault == "of another" else "localhost"
    settings = settings_of(dsn, valkey_over_tls(valkey_url, valkey.port, ca, host), 0)
    with pytest.raises(GateUnreachable):
        open_gate(settings).in_flight()
    assert _broker_refuses(make_app(settings))
    with pytest.raises(psycopg.OperationalError, match=r"(?i)certificate|ssl"):
        connect(
            postgres_over_tls(dsn, postgres.port, ca or others.ca, host),
            PRODUCER,
            Bounds(),
            name="test",
        )
    assert valkey.admitted == 0


def _broker_refuses(app: Celery) -> bool:
    """Whether its broker's certificate is what keeps it from connecting."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            connection.default_channel.client.ping()
    except (OperationalError, redis.ConnectionError, ssl.SSLError) as error:
        return "certificate" in str(error).lower()
    return False


def test_plain_talk_to_a_server_with_tls_comes_to_nothing(
    valkey_url: str, dsn: str, valkey: TlsProxy, postgres: TlsProxy
) -> None:
    plain = valkey_over_tls(valkey_url, valkey.port, None, scheme="redis")
    with pytest.raises((redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse)):
        open_client(plain, timeout_ms=2_000).ping()
    login, _, rest = dsn.rpartition("@")
    plain = f"{login}@localhost:{postgres.port}/{rest.partition('/')[2]}?sslmode=disable"
    with pytest.raises(psycopg.OperationalError):
        connect(plain, PRODUCER, Bounds(), name="test")
    assert (valkey.admitted, postgres.admitted) == (0, 0)


def test_rabbitmq_is_held_to_its_name(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `amqps://` broker whose certificate is of a trusted authority, and of another host."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.server)
    spoken_to: list[bytes] = []

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is closed in the end
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    with context.wrap_socket(connection, server_side=True) as speaking:
                        spoken_to.append(speaking.recv(4))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        port = listening.getsockname()[1]
        for host, error in (
            ("127.0.0.1", ssl.SSLCertVerificationError),
            ("localhost", OSError),  # which goes on to speak AMQP, and is not understood
        ):
            assert spoken_to == []
            settings = Settings(broker=Broker(url=f"amqps://u:p@{host}:{port}//"))
            with pytest.raises(error):
                make_app(settings).connection_for_write().connect()
    assert set(spoken_to) == {b"AMQP"}
