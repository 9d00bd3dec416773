"""The proxy that chaos puts before a server does to bytes what its weather says, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deploy.chaos.proxy import Proxy
from deploy.embedded.ports import free_port

SOON_S = 5.0


class Echo:
    """A server that answers every chunk with itself, and keeps what it heard."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.heard = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError), end:
            while chunk := end.recv(65_536):
                self.heard += chunk
                end.sendall(chunk)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with contextlib.closing(Echo()) as echo:
        yield echo


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(lambda: echo.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=SOON_S) as client:
        assert exchange(client, b"hello") == b"hello"
        yield client


def exchange(client: socket.socket, said: bytes) -> bytes:
    """Say something and hear as much back, or as much as came before the end."""
    client.sendall(said)
    back = b""
    with contextlib.suppress(ConnectionError):
        while len(back) < len(said) and (chunk := client.recv(65_536)):
            back += chunk
    return back


def until(fact: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SOON_S
    while not fact():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_in_fair_weather_bytes_come_through_as_they_are(client: socket.socket) -> None:
    said = bytes(range(256)) * 2_000
    threading.Thread(target=client.sendall, args=(said,), daemon=True).start()
    back = b""
    while len(back) < len(said):
        back += client.recv(65_536)
    assert back == said


def test_delay_makes_every_byte_late(proxy: Proxy, client: socket.socket) -> None:
    proxy.weather.delay_s = 0.1
    began = time.monotonic()
    assert exchange(client, b"late") == b"late"
    assert time.monotonic() - began >= 0.2  # there and back


def test_slices_arrive_whole(proxy: Proxy, client: socket.socket) -> None:
    proxy.weather.sliced = True
    assert exchange(client, b"x" * 1_000) == b"x" * 1_000


def test_a_lost_reply_was_carried_out_and_its_connection_is_cut(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    proxy.weather.lose_reply_to = b"COMMIT"
    assert exchange(client, b"COMMIT") == b""
    assert echo.heard.endswith(b"COMMIT")
    assert proxy.lost_replies == 1


def test_what_does_not_commit_keeps_its_reply(proxy: Proxy, client: socket.socket) -> None:
    proxy.weather.lose_reply_to = b"COMMIT"
    assert exchange(client, b"SELECT") == b"SELECT"
    assert proxy.lost_replies == 0


def test_a_cut_comes_in_the_middle_of_a_frame(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    assert proxy.cut(1.0) == 1
    assert exchange(client, b"0123456789") == b""
    until(lambda: echo.heard == b"hello01234")


def test_a_hole_there_keeps_all_from_the_server_until_it_is_mended(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    proxy.weather.holes.add("there")
    time.sleep(0.1)  # what was being read before it is through
    client.sendall(b"held")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(10)
    proxy.weather.holes.clear()
    client.settimeout(SOON_S)
    assert client.recv(10) == b"held"


def test_a_hole_back_lets_the_server_hear_what_it_cannot_answer(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    proxy.weather.holes.add("back")
    client.sendall(b"heard")
    until(lambda: echo.heard.endswith(b"heard"))
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(10)


def test_without_a_server_a_connection_ends_at_once() -> None:
    nowhere = free_port()
    with (
        Proxy(lambda: ("127.0.0.1", nowhere)) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=SOON_S) as client,
        contextlib.suppress(ConnectionError),
    ):
        assert client.recv(1) == b""


def test_links_that_are_alive_in_the_end_are_cut_and_nobody_complains(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those of bytes that are still under way, and of a hole."""
    with Proxy(lambda: echo.address) as proxy:
        clients = [socket.create_connection(("127.0.0.1", proxy.port), SOON_S) for _ in range(3)]
        for client in clients:
            assert exchange(client, b"hello") == b"hello"
        proxy.weather.delay_s = 60.0
        clients[0].sendall(b"late")
        time.sleep(0.05)
        proxy.weather.holes.add("there")
        clients[1].sendall(b"held")
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            assert client.recv(10) == b""
    assert caplog.text == ""
