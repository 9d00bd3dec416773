"""Serving the metrics of a process, or of a family that forks, over HTTP on a port of their own.

A thread answers, so that a scrape waits for no event loop and in no queue of callers: a process that
is overloaded is the one to be looked at.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog

from config.exposition import CONTENT_TYPE, Exposition

_log = structlog.get_logger()

BACKLOG = 64
_SILENCE_S = 5.0  # a scraper that has not sent its request within this is let go


def serve(listening: socket.socket, shown: Exposition) -> WSGIServer:
    """Answer every GET on a socket that listens, until told to `shutdown`.

    Call it after the fork: a thread is not inherited. Several processes may share the socket.
    """
    server = _Server(listening)
    server.set_app(_answering(shown))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _answering(shown: Exposition) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """Make the application; it compresses nothing: bytes are cheaper here than a core's time."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            start("405 Method Not Allowed", [("Allow", "GET")])
            return [b"metrics are read with GET\n"]
        text = shown.text()
        start("200 OK", [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(text)))])
        return [text]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # made unasked
        self.socket = listening
        # A scraper wakes all who share the socket; those who come late must not wait for the next.
        listening.setblocking(False)
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        scraper, address = super().get_request()
        scraper.setblocking(True)
        return scraper, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one scraper; the others are served."""
        del request, client_address
        _log.warning("scrape failed", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing of scrapes."""
