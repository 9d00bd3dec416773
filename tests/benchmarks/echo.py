"""An HTTP echo: what any server pays that reads a body and answers it.

    python -m tests.benchmarks.echo PORT

Bare ASGI on uvicorn, with the event loop, the parser and the collector settings of Tidegate's API.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import uvicorn

from deploy.embedded.ports import free_port
from producer.http import server

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STARTS_WITHIN_S = 20


async def echo(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Answer the body with the body."""
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until killed."""
    config = uvicorn.Config(
        echo,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=4_096,
    )
    gc.freeze()
    gc.set_threshold(*server._GC_THRESHOLDS)
    uvicorn.Server(config).run()


@contextmanager
def echoing() -> Iterator[tuple[str, int]]:
    """Run the echo in a process of its own; yield its URL and its pid."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", __name__, str(port)])
    try:
        _await(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _await(url: str) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            urlopen(url, timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
