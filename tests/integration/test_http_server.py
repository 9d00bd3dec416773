"""The API's process: without its dependencies, with callers who misbehave, and at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from http_kit import ORDER, add_gateway, key_of, serve, settings_for
from msgspec.structs import replace

from config.settings import Settings, to_environ
from deploy.embedded.ports import free_port
from producer.http import connections, server
from tests.factories import add_campaign, open_gate

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def settings(dsn: str, valkey_url: str) -> Settings:
    """Settings for a database with a campaign and a gateway, and a gate that admits."""
    add_campaign(dsn)
    add_gateway(dsn)
    open_gate(valkey_url)
    return settings_for(dsn, valkey_url, accept_timeout_ms=2_000, drain_timeout_s=5)


def until(reached: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


class Relay:
    """A door to PostgreSQL that can be shut: everything behind it is cut off at once."""

    def __init__(self, dsn: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        self._target = (str(parts["host"]), int(parts["port"]))  # type: ignore[arg-type]
        self.port = free_port()
        self.dsn = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=self.port)
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []

    def open(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def shut(self) -> None:
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for one in self._open:
            one.close()
        self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(65_536):
                sink.sendall(data)


@contextmanager
def through_relay(settings: Settings) -> Iterator[tuple[Relay, Settings]]:
    """Settings whose PostgreSQL is behind a door, shut at first."""
    relay = Relay(settings.postgres.dsn)
    try:
        yield relay, replace(settings, postgres=replace(settings.postgres, dsn=relay.dsn))
    finally:
        relay.shut()


# Dependencies ----------------------------------------------------------------------------------


def test_it_starts_without_postgresql_and_serves_as_soon_as_it_is_there(
    settings: Settings,
) -> None:
    """Down is an answer (503), not a reason to stay down; nobody restarts anything."""
    with through_relay(settings) as (relay, behind), serve(behind) as api:
        reply = api.post()
        assert reply.status_code == 503
        assert reply.json()["accepted"] == "unknown"
        assert int(reply.headers["retry-after"]) >= 1
        assert api.client().get("/readyz").status_code == 200
        assert "[-]postgres failed" in api.client().get("/readyz?verbose").text
        relay.open()
        until(lambda: api.post().status_code == 202)


def test_an_outage_of_postgresql_is_answered_in_time_and_survived(settings: Settings) -> None:
    """Known keys stay good; nothing is promised; the same key works when it is back."""
    with through_relay(settings) as (relay, behind):
        relay.open()
        with serve(behind) as api:
            until(lambda: api.post(key="first").status_code == 202)
            relay.shut()
            began = time.monotonic()
            reply = api.post(key="second")
            assert time.monotonic() - began < 2.5
            assert reply.status_code == 503
            assert reply.json()["accepted"] in ("no", "unknown")
            read = api.client().get("/v1/intents/01a2059d-8b26-7000-bbbf-2a1a191d4a31")
            assert (read.status_code, read.json()["code"]) == (503, "reading_unavailable")
            relay.open()
            until(lambda: api.post(key="second").status_code == 202)
            assert api.post(key="first").headers["idempotent-replayed"] == "true"


def test_it_starts_without_valkey_and_says_no(settings: Settings) -> None:
    """Without the gate nothing is admitted, and the journal says that nothing was accepted."""
    away = replace(settings, valkey=replace(settings.valkey, url=NOWHERE))
    with serve(away) as api:
        reply = api.post()
        assert reply.status_code == 503
        assert (reply.json()["code"], reply.json()["accepted"]) == ("dependency_unavailable", "no")
        assert "[-]valkey failed" in api.client().get("/readyz?verbose").text


def test_a_hung_postgresql_leaves_no_caller_without_an_answer(settings: Settings) -> None:
    """A lock that is not given back: the answer is `unknown`, within the bound."""
    with serve(settings) as api:
        assert api.post(key="first").status_code == 202
        with psycopg.connect(settings.postgres.dsn) as blocker:
            blocker.execute("LOCK TABLE tidegate.intents")
            began = time.monotonic()
            reply = api.post(key="second")
            assert time.monotonic() - began < 3
            assert reply.status_code == 503
            assert reply.json()["accepted"] in ("no", "unknown")
        until(lambda: api.post(key="second").status_code in (200, 202))


# Callers ---------------------------------------------------------------------------------------


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECEIVE_TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_a_caller_who_never_finishes_is_let_go(settings: Settings, sent: bytes) -> None:
    """Slow loris: what is being sent must be complete within a while."""
    with serve(settings) as api, socket.create_connection(("127.0.0.1", api.port)) as slow:
        slow.settimeout(10)
        slow.sendall(sent)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while slow.recv(1_000):
                pass
        assert time.monotonic() - began < 5


def test_a_header_without_end_is_refused(settings: Settings) -> None:
    """No more of a header is kept than the bound."""
    with serve(settings) as api, socket.create_connection(("127.0.0.1", api.port)) as endless:
        endless.settimeout(10)
        endless.sendall(b"GET /livez HTTP/1.1\r\n")
        try:
            for _ in range(100):
                endless.sendall(b"x: " + b"y" * 2_000 + b"\r\n")
                time.sleep(0.002)
            answer = endless.recv(1_000)
        except ConnectionError:
            answer = b""
        assert answer[:12] in (b"", b"HTTP/1.1 431")
        assert httpx.get(f"{api.url}/livez").status_code == 200


def test_pipelined_calls_are_answered_in_order(settings: Settings) -> None:
    """HTTP/1.1 allows a caller not to wait between calls."""
    head = f"POST /v1/intents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key_of('chat')}\r\n"
    body = httpx.Request("POST", "http://x", json=ORDER).content
    call = head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with serve(settings) as api, socket.create_connection(("127.0.0.1", api.port)) as pipe:
        pipe.settimeout(10)
        for n in range(3):
            key = f"Idempotency-Key: pipe-{n}\r\n\r\n"
            pipe.sendall((call + key).encode() + body)
        received = b""
        while received.count(b"HTTP/1.1 202") < 3:
            data = pipe.recv(65_536)
            assert data
            received += data


# The end ---------------------------------------------------------------------------------------


def test_the_last_calls_are_answered_and_long_ones_end_early(settings: Settings) -> None:
    """At the end a wait is answered with its receipt and a stream ends; no connection is cut."""
    with serve(settings) as api:
        intent_id = api.post(key="first").json()["intent_id"]
        waited: list[httpx.Response] = []
        told: list[str] = []

        def wait() -> None:
            waited.append(api.post(key="second", prefer="wait=30"))

        def listen() -> None:
            with api.client().stream("GET", f"/v1/intents/{intent_id}/events") as stream:
                told.extend(stream.iter_text())

        threads = [threading.Thread(target=wait), threading.Thread(target=listen)]
        for thread in threads:
            thread.start()
        with psycopg.connect(api.dsn) as journal:
            count = "SELECT count(*) FROM tidegate.intents"
            until(lambda: journal.execute(count).fetchone() == (2,))
        until(lambda: "event: accepted" in "".join(told))
    for thread in threads:
        thread.join(10)
    assert [reply.status_code for reply in waited] == [202]
    assert "event: outcome" not in "".join(told)


RUN = (
    "from config.settings import load; from producer.http.server import run; "
    "raise SystemExit(run(load()))"
)


@contextmanager
def process(settings: Settings, processes: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`run` in a process of its own."""
    port = free_port()
    api = replace(settings.api, port=port, processes=processes)
    child = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, **to_environ(replace(settings, api=api))},
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url))
        yield child, url
    finally:
        child.kill()
        child.wait()


def test_sigterm_ends_a_process_with_status_0(settings: Settings) -> None:
    """A drained end is a good end."""
    with process(settings, 1) as (child, _):
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_metrics_are_shown_among_the_calls_and_on_a_port_of_their_own(
    settings: Settings, processes: int
) -> None:
    """The same series, of the whole family; both end with the process."""
    port = free_port()
    own = replace(settings, api=replace(settings.api, metrics_port=port))
    with process(own, processes) as (child, url):
        apart = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        among = httpx.get(f"{url}/metrics").text
        series = [one.split(" ")[0] for one in apart.splitlines() if one.startswith("tidegate_")]
        assert len(series) > 100
        assert all(f"{one} " in among for one in series)
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_a_port_that_another_has_ends_the_process_with_a_line_that_names_it(
    settings: Settings, name: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ours = {"port": free_port(), name: port}
        environ = to_environ(replace(settings, api=replace(settings.api, **ours)))
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            env={**os.environ, **environ},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stdout
    assert str(port) in done.stdout


def test_several_processes_share_a_port_and_replace_each_other(settings: Settings) -> None:
    """A killed child is started again; SIGTERM ends the family; nobody is left behind."""
    with process(settings, 2) as (parent, url):
        children = _whole_family(parent.pid, 2)
        os.kill(children[0], signal.SIGKILL)
        until(lambda: len(set(_children(parent.pid)) - set(children)) == 1)
        assert _answers(url)
        family = _children(parent.pid)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(15) == 0
        assert not any(map(_lives, family))


def test_children_do_not_outlive_a_killed_parent(settings: Settings) -> None:
    """Whoever starts the parent again finds the port free."""
    with process(settings, 2) as (parent, _):
        children = _whole_family(parent.pid, 2)
        parent.kill()
        parent.wait()
        until(lambda: not any(map(_lives, children)))
        assert children
        assert not any(map(_lives, children))


def test_a_taken_port_is_an_error_and_not_a_traceback(settings: Settings) -> None:
    """The exit status says that it did not serve."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        api = replace(settings.api, port=taken.getsockname()[1])
        assert server.run(replace(settings, api=api)) == 1


def _whole_family(parent: int, size: int) -> list[int]:
    """The first child may answer before its sibling is born."""
    until(lambda: len(_children(parent)) == size)
    return _children(parent)


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False
