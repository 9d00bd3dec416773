"""Posting to strangers: bounded in time and size, and only to addresses that were checked."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from webhook_kit import Receiver, Reply, receiving

from tests import programs
from workers.contract.posting import BODY_BYTES_MAX, HEAD_BYTES_MAX, Poster
from workers.domain.delivery import ERROR_CHARS_MAX, Answer
from workers.domain.destination import Refused

TIMEOUT_S = 1.0


def post(url: str, *, times: int = 1, **given: Any) -> list[Answer]:
    """Post from one poster, one after the other."""

    async def run() -> list[Answer]:
        poster = Poster(**{"allow_private": True, "timeout_s": TIMEOUT_S} | given)
        try:
            return [await poster.post(url, {"x-number": str(n)}, b"{}") for n in range(times)]
        finally:
            poster.close()

    return asyncio.run(run())


def resolver(*addresses: str) -> Callable[[str, int], Any]:
    """A name server whose answers change: one address each time, the last one for ever."""
    left = list(addresses)

    async def resolve(_: str, __: int) -> Sequence[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolve


@contextmanager
def speaking(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then says what `talk` says; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    asked = b""
                    while not asked.endswith(b"{}"):
                        asked += connection.recv(65_536)
                    talk(connection)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_private_address_is_refused_at_delivery_whatever_it_was_before() -> None:
    """The name is resolved each time; a registration's check is no licence."""
    with receiving() as receiver:
        for address in ("127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "10.0.0.1"):
            (answer,) = post(
                "https://hooks.example/", allow_private=False, resolve=resolver(address)
            )
            assert "public Internet" in answer.error
            assert answer.status is None
        assert receiver.hits == []


def test_one_private_address_among_public_ones_refuses_them_all() -> None:
    """Whoever mixes them is up to something."""

    async def resolve(_: str, __: int) -> Sequence[str]:
        return ["8.8.8.8", "127.0.0.1"]

    (answer,) = post("https://hooks.example/", allow_private=False, resolve=resolve)
    assert "127.0.0.1 is not" in answer.error


def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A name that changes its mind between the check and the connection has no second say."""
    with receiving() as receiver:
        asked: list[str] = []

        async def resolve(host: str, _: int) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.1"]

        (answer,) = post(f"http://rebinding.invalid:{receiver.port}/x", resolve=resolve)
        assert (answer.status, asked) == (204, ["rebinding.invalid"])
        assert receiver.hits[0].headers["host"] == f"rebinding.invalid:{receiver.port}"


def test_a_registration_is_refused_for_what_resolves_to_a_private_address() -> None:
    """And for what does not resolve at all."""

    async def check(url: str, **given: Any) -> None:
        poster = Poster(**given)
        try:
            await poster.check(url)
        finally:
            poster.close()

    for url, given in (
        ("https://localhost/", {}),
        ("https://127.0.0.1/", {}),
        ("https://[::1]/", {}),
        ("https://hooks.example/", {"resolve": resolver("100.64.0.1")}),
    ):
        with pytest.raises(Refused, match="public Internet"):
            asyncio.run(check(url, **given))
    with pytest.raises(Refused, match="resolve"):
        asyncio.run(check("https://nowhere.invalid/"))
    asyncio.run(check("https://hooks.example/", resolve=resolver("8.8.8.8")))


def test_another_address_is_tried_where_the_first_does_not_answer() -> None:
    """As where IPv6 leads nowhere."""
    with receiving() as receiver, socket.create_server(("127.0.0.2", 0)) as closed:
        closed.close()

        async def resolve(_: str, __: int) -> Sequence[str]:
            return ["127.0.0.2", "127.0.0.1"]

        (answer,) = post(f"http://hooks.example:{receiver.port}/", resolve=resolve)
        assert answer.status == 204


def _drip(connection: socket.socket) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1_000:
        connection.send(bytes([letter]))
        time.sleep(0.1)


def _hang(connection: socket.socket) -> None:
    connection.recv(1)


def _pour(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def _boast(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * HEAD_BYTES_MAX)


def _postpone(connection: socket.socket) -> None:
    later = b"Retry-After: Sat, 01 Jan 99999999999 00:00:00 GMT"
    connection.sendall(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n" + later + b"\r\n\r\n")


def _babble(connection: socket.socket) -> None:
    connection.sendall(b"220 smtp.example ESMTP\r\n\r\n")


def _leave(_: socket.socket) -> None:
    return


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        (_drip, "no answer within 1 s"),
        (_hang, "no answer within 1 s"),
        (_boast, "not HTTP"),
        (_babble, "not HTTP"),
        (_leave, "closed without an answer"),
    ],
)
def test_every_way_to_fail_is_an_answer_in_time(
    talk: Callable[[socket.socket], None], why: str
) -> None:
    """One deadline holds for everything: a byte now and then does not move it."""
    with speaking(talk) as url:
        began = time.monotonic()
        (answer,) = post(url)
        assert why in answer.error
        assert answer.status is None
        assert time.monotonic() - began < TIMEOUT_S + 0.7


def test_a_body_is_read_to_four_kibibytes_and_dropped() -> None:
    """The status is the answer; nobody makes us read more."""
    with speaking(_pour) as url:
        (answer,) = post(url)
        assert (answer.status, len(answer.body)) == (200, BODY_BYTES_MAX)


def test_a_wait_that_cannot_be_read_is_none() -> None:
    """The answer stands."""
    with speaking(_postpone) as url:
        (answer,) = post(url)
        assert (answer.status, answer.retry_after_s) == (503, None)


def test_nobody_listens_is_an_answer() -> None:
    """In the system's words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (answer,) = post(f"http://127.0.0.1:{port}/")
    assert answer.error.startswith("connection: ")


def test_an_error_is_short_whatever_it_quotes() -> None:
    """It is kept with every event, and shown on a line."""
    (answer,) = post(f"http://{'x' * 1_500}/")
    assert answer.error.startswith("'xxx")
    assert len(answer.error) == ERROR_CHARS_MAX


def test_a_connection_that_the_receiver_closed_meanwhile_costs_nothing() -> None:
    """It is opened again, and the post goes through."""

    def once(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with speaking(once) as url:
        assert [answer.status for answer in post(url, times=3)] == [204] * 3


def test_retry_after_and_the_status_are_read() -> None:
    """Whatever the case of the header's name."""
    with receiving(lambda _: Reply(503, {"Retry-After": "17"}, b"later")) as receiver:
        (answer,) = post(receiver.url)
        assert (answer.status, answer.retry_after_s, answer.body) == (503, 17, b"later")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hooks.example, with its key in the same file."""
    programs.find("openssl", "openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=hooks.example"),
            *("-addext", "subjectAltName=DNS:hooks.example", "-keyout", "-", "-out", "-"),
        ],
        capture_output=True,
        check=True,
    )
    path.write_bytes(made.stdout)
    return path


@contextmanager
def secure(certificate: Path) -> Iterator[tuple[Receiver, ssl.SSLContext]]:
    """A receiver that speaks TLS as hooks.example, and who trusts it."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    with receiving(tls=serving) as receiver:
        yield receiver, ssl.create_default_context(cafile=str(certificate))


def test_tls_is_verified_for_the_name_on_the_address_that_was_checked(certificate: Path) -> None:
    """The name goes into SNI and is what the certificate must be for."""
    with secure(certificate) as (receiver, trusting):
        given: dict[str, Any] = {"resolve": resolver("127.0.0.1"), "tls": trusting}
        (answer,) = post(f"https://hooks.example:{receiver.port}/", **given)
        assert answer.status == 204
        (answer,) = post(f"https://other.example:{receiver.port}/", **given)
        assert answer.error.startswith("TLS: ")
        (answer,) = post(f"https://hooks.example:{receiver.port}/", resolve=given["resolve"])
        assert answer.error.startswith("TLS: "), "by nobody we trust"
        assert len(receiver.hits) == 1
