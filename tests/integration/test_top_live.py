"""`tidegate top` beside a running cluster, on a terminal, and with sources that misbehave."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from deploy.embedded.cluster import Cluster
from deploy.top.sources import Source, SourceError, fetch

TOP = (sys.executable, "-m", "deploy.cli", "top")
NOWHERE = "http://127.0.0.1:1"
SOON_S = 60.0  # bound of waits that end as soon as what they wait for is there
# The terminal controls what runs on it, so that Ctrl-C and Ctrl-Z are signals.
CONTROLLED = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])"""
ORDERS = 7
CAKES = 10  # all there are of them in the campaign of `tidegate dev`
SETUP = "\x1b[?1049h"
RESTORE = "\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster in which a few intents have been decided."""
    with Cluster(workers=2) as running:
        _post_everything(running)
        yield running


def _post_everything(cluster: Cluster) -> None:
    """7 orders, one of them asked for again, one key used twice, and all cakes in one order."""
    for n in range(ORDERS):
        assert _order(cluster, f"order-{n}", "milk-tea-large").json()["status"] == "committed"
    assert _order(cluster, "order-0", "milk-tea-large").headers["idempotent-replayed"] == "true"
    assert _order(cluster, "order-0", "spring-lantern-cake").status_code == 422
    cakes = _order(cluster, "cakes", "spring-lantern-cake", CAKES)
    assert cakes.json()["status"] == "committed", cakes.text


def _order(cluster: Cluster, key: str, sku: str, quantity: int = 1) -> httpx.Response:
    return httpx.post(
        f"{cluster.api_url}/v1/intents",
        json={
            "user_id": "u-1",
            "campaign_id": "dev",
            "lines": [{"sku": sku, "quantity": quantity}],
        },
        headers={
            "authorization": f"Bearer {cluster.api_key}",
            "idempotency-key": key,
            "prefer": "wait=20",
        },
        timeout=30,
    )


def _once(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*TOP, "--once", "--json", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(cluster: Cluster) -> dict[str, Any]:
    """What `tidegate top --once --json` says of the cluster, once all is up and has read it all."""
    deadline = time.monotonic() + SOON_S
    while True:
        code, figures = _once("--data", str(cluster.data))
        if code == 0 and figures["intents"]["committed"]["total"] == ORDERS + 1:
            return figures
        assert time.monotonic() < deadline, (code, figures["sources"], figures["intents"])


def test_every_process_of_the_cluster_answers(cluster: Cluster, told: dict[str, Any]) -> None:
    """The status and each address of endpoints.json."""
    states = {source["name"]: source["state"] for source in told["sources"]}
    assert states == dict.fromkeys(["status", *cluster.endpoints().metrics], "answers")
    assert [worker["name"] for worker in told["pipeline"]["workers"]] == ["worker-1", "worker-2"]
    assert all(worker["up"] for worker in told["pipeline"]["workers"])


def test_the_level_is_that_of_the_status(cluster: Cluster, told: dict[str, Any]) -> None:
    """As any gateway may ask for it."""
    status = httpx.get(
        f"{cluster.api_url}/v1/status", headers={"authorization": f"Bearer {cluster.api_key}"}
    ).json()
    for key in ("level", "governed", "issuance", "redemption"):
        assert told["level"][key] == status[key]
    assert [campaign["campaign"] for campaign in told["campaigns"]] == ["dev"]


def test_the_counts_are_of_what_was_posted(told: dict[str, Any]) -> None:
    """Each answer by its word; nobody posts any more, so that every rate is nothing."""
    intents = told["intents"]
    assert intents["offered"] == {"total": ORDERS + 1 + 2, "per_s": 0}
    assert intents["accepted"] == {"total": ORDERS + 1, "per_s": 0}
    assert intents["replayed"] == {"total": 1, "per_s": 0}
    assert told["refusals"]["answers"]["conflict"] == {"total": 1, "per_s": 0}
    assert intents["refused"] == {"total": 0, "per_s": 0}
    assert told["pipeline"]["in_flight"] == 0


def test_what_the_tables_hold_is_told(told: dict[str, Any]) -> None:
    """Orders, units and money, by the exporter."""
    (campaign,) = told["campaigns"]
    assert campaign["committed"]["total"] == ORDERS + 1
    cakes = campaign["items"]["spring-lantern-cake"]
    assert (cakes["initial"], cakes["available"]) == (CAKES, 0)
    assert cakes["reserved"] + cakes["sold"] == CAKES
    assert campaign["budget"]["initial"] == campaign["budget"]["available"] == 1_000_000_000


def test_a_key_that_is_not_taken_leaves_the_metrics(cluster: Cluster) -> None:
    """The status is away, with its reason; counts go on."""
    code, figures = _once("--url", cluster.api_url, "--key", "tg_no_key_of_ours")
    assert code == 0
    status, api = figures["sources"]
    assert (status["state"], status["error"]) == ("away", "the key is not taken (401)")
    assert api["state"] == "answers"
    assert figures["intents"]["accepted"]["total"] == ORDERS + 1


def test_a_pipe_gets_one_frame_of_plain_text(cluster: Cluster) -> None:
    """No escape sequence, nothing beyond ASCII."""
    done = subprocess.run(
        [*TOP, "--data", str(cluster.data)], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("NORMAL everything is open")
    assert re.fullmatch(r"[\x20-\x7e\n]+", done.stdout)


def test_where_nobody_answers_the_exit_code_says_so() -> None:
    """3, and the object is printed nevertheless."""
    code, figures = _once("--url", NOWHERE, "--key", "k")
    assert code == 3
    assert {source["state"] for source in figures["sources"]} == {"away"}


def test_a_dumb_terminal_gets_one_frame() -> None:
    """TERM=dumb, as in an editor's shell."""
    with Screen("--url", NOWHERE, term="dumb") as screen:
        assert screen.ended() == 3
    assert "\x1b" not in screen.text
    assert "UNKNOWN" in screen.text


def test_keys_show_other_views_and_q_gives_the_terminal_back(cluster: Cluster) -> None:
    """As it was: its modes, its cursor, its own screen."""
    with Screen("--data", str(cluster.data)) as screen:
        screen.until("NORMAL")
        screen.until("everything is open")
        screen.press("5")
        screen.until("worker-2")
        screen.press("?")
        screen.until("KEYS AND WORDS")
        screen.press("x2")
        screen.until("AT THE GATE")
        screen.press("q")
        assert screen.ended() == 0
    assert screen.text.startswith(SETUP)
    assert screen.text.rstrip().endswith(RESTORE)
    assert screen.modes() == screen.modes_before


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda screen: screen.press("\x03"), 130),
        (lambda screen: screen.process.send_signal(signal.SIGTERM), -signal.SIGTERM),
        (lambda screen: screen.process.send_signal(signal.SIGHUP), -signal.SIGHUP),
    ],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_however_it_ends_the_terminal_is_given_back(
    end: Callable[[Screen], None], code: int
) -> None:
    """Also with nobody there to be shown; sources that are away do not end it."""
    with Screen("--url", NOWHERE, "--key", "k") as screen:
        screen.until("never heard")
        end(screen)
        assert screen.ended() == code
    assert RESTORE in screen.text
    assert screen.modes() == screen.modes_before


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on() -> None:
    """The shell has its own screen and modes meanwhile."""
    with Screen("--url", NOWHERE, "--key", "k") as screen:
        screen.until("never heard")
        screen.press("\x1a")
        screen.until(RESTORE)
        screen.until_stopped()
        assert screen.modes() == screen.modes_before
        screen.forget()
        screen.process.send_signal(signal.SIGCONT)
        screen.until(SETUP)
        screen.until("never heard")
        screen.press("q")
        assert screen.ended() == 0
    assert screen.modes() == screen.modes_before


def test_it_follows_the_size_of_the_window() -> None:
    """Without a key."""
    with Screen("--url", NOWHERE, "--key", "k") as screen:
        screen.until("never heard")
        assert "A BATCH OF THE WORKERS" not in screen.text
        screen.resize(120, 40)
        screen.until("A BATCH OF THE WORKERS")
        screen.press("q")
        assert screen.ended() == 0


def sizeless(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would say a size that is not the terminal's."""
    return {name: value for name, value in environ.items() if name not in {"COLUMNS", "LINES"}}


class Screen:
    """`tidegate top` on a terminal of 80 columns and 24 rows; a context manager."""

    def __init__(self, *arguments: str, term: str = "xterm-256color") -> None:
        self._ours, self._theirs = os.openpty()
        self.resize(80, 24)
        self.modes_before = self.modes()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED, *TOP, "--interval", "0.2", *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**sizeless(os.environ), "TERM": term},
            start_new_session=True,
        )

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def forget(self) -> None:
        self.text = ""

    def until(self, text: str) -> None:
        """Read until `text` is seen; what was read before counts."""
        deadline = time.monotonic() + SOON_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.text[-3_000:]!r}"
            assert self.process.poll() is None, self.text[-3_000:]
            self._read(0.1)

    def until_stopped(self) -> None:
        """Wait until the process is stopped, as by a shell's Ctrl-Z."""
        deadline = time.monotonic() + SOON_S
        while _state(self.process.pid) != "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ended(self) -> int:
        """Return the exit code; negative for a signal."""
        deadline = time.monotonic() + SOON_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], wait_s)
        if ready:
            self.text += os.read(self._ours, 65_536).decode(errors="replace")
        return bool(ready)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0]


@contextmanager
def _serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve an answer to every GET; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:  # the caller had enough
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://169.254.169.254/")
    handler.end_headers()


def _drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for as long as anybody listens."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"#")
        time.sleep(0.02)


def _flood(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"#" * 1_000_000)


def _hang(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the caller leaves


@pytest.mark.parametrize(
    ("answer", "timeout_s", "why"),
    [
        (_redirect, 10.0, "answers 302"),
        (_drip, 0.3, "sends for longer than 0.3 s"),
        (_flood, 60.0, "sends more than"),
        (_hang, 0.3, r"no answer within 0\.3 s"),
    ],
)
def test_a_call_is_bounded_whatever_the_other_side_does(
    answer: Callable[[BaseHTTPRequestHandler], None], timeout_s: float, why: str
) -> None:
    """In time and in size; and nobody is sent elsewhere."""
    with _serving(answer) as url, pytest.raises(SourceError, match=why):
        fetch(Source(name="odd", url=url), timeout_s)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of ours is asked where it is."""
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(handler.path.encode())

    with _serving(answer) as url:
        assert fetch(Source(name="api", url=f"{url}?name=1")) == b"/metrics?name=1"
