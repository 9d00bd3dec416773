"""Metrics are served on a port of their own, whatever single scrapers do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from config import scrapes
from config.exposition import Exposition
from config.listening import listen

SOON_S = 10.0


@contextmanager
def served(times: int = 1) -> Iterator[tuple[str, int]]:
    """The address of one socket that is served by so many."""
    registry = CollectorRegistry()
    Gauge("things", "How many.", registry=registry).set(7)
    shown = Exposition(beside=[registry])
    listening = listen("127.0.0.1", 0, scrapes.BACKLOG)
    servers = [scrapes.serve(listening, shown) for _ in range(times)]
    try:
        yield listening.getsockname()
    finally:
        for server in servers:
            server.shutdown()
        listening.close()


def scraped(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SOON_S) as answer:
        text: str = answer.read().decode()
    return text


def test_a_scraper_that_is_silent_keeps_no_other_waiting() -> None:
    with served() as address, socket.create_connection(address):
        assert "things 7.0" in scraped(address[1])


def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes._Handler, "timeout", 0.1)
    with served() as address, socket.create_connection(address, timeout=SOON_S) as silent:
        assert silent.recv(1) == b""


def test_a_scraper_that_goes_away_in_the_middle_is_nobodys_trouble(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with served() as address:
        for _ in range(20):
            with socket.create_connection(address) as gone:
                gone.sendall(b"GET /metrics HT")
        assert "things 7.0" in scraped(address[1])
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("servers", [1, 3])
def test_several_scrapers_are_served_at_once(servers: int) -> None:
    """By one, and by several on one socket: each of them is woken by each scraper."""
    with served(servers) as address:
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.append(scraped(address[1]))) for _ in range(20)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join(SOON_S)
    assert len(found) == 20
    assert all("things 7.0" in text for text in found)
