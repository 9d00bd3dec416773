"""An API that says what a test tells it to: for what the real one seldom does."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Said = tuple[int, Any, dict[str, str]]


class Heard(NamedTuple):
    """One call, as it came. `at` is monotonic."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Scripted:
    """The script, and what was heard. `say` answers, or returns None to drop the connection.

    A body that is an iterator is sent piece by piece, under a length that it is to have told itself.
    """

    def __init__(self, say: Callable[[Heard], Said | None]) -> None:
        self.say = say
        self.heard: list[Heard] = []
        self.connections = 0
        self.open = 0
        self.open_most = 0
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def scripted(say: Callable[[Heard], Said | None]) -> Iterator[Scripted]:
    """Serve a script on a free port, a thread for each connection, as long as the block lasts."""
    script = Scripted(say)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"script": script}))
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Scripted

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.script.lock:
            self.script.connections += 1
            self.script.open += 1
            self.script.open_most = max(self.script.open_most, self.script.open)

    def finish(self) -> None:
        with self.script.lock:
            self.script.open -= 1
        super().finish()

    def do_GET(self) -> None:  # the name that http.server calls
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        heard = Heard(self.command, self.path, headers, body, time.monotonic())
        with self.script.lock:
            self.script.heard.append(heard)
        said = self.script.say(heard)
        if said is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, told, more = said
        if isinstance(told, Iterator):
            pieces, length = told, {}
        else:
            content = told if isinstance(told, bytes) else json.dumps(told).encode()
            pieces, length = iter([content]), {"content-length": str(len(content))}
        self.send_response(status)
        for name, value in {**length, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:  # the caller has had enough
            self.close_connection = True

    do_POST = do_GET  # noqa: N815  # as above

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
