"""Whether this process serves.

Overloaded, or without its dependencies, it still tells the truth, so it stays in rotation;
`?verbose` says what it can reach.
"""

from __future__ import annotations

import asyncio

from config.exposition import CONTENT_TYPE, Exposition
from producer.http.calls import NO_STORE, Call, Reply
from producer.http.metering import settle
from producer.http.problems import Problem
from workers.store import resources

_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_CHECK_TIMEOUT_S = 1.0
_SHOWN = Exposition("api")


async def get_livez(call: Call) -> Reply:
    """`GET /livez`: the process runs, and its event loop turns."""
    del call
    return Reply(200, b"ok\n", [_TEXT, NO_STORE])


async def get_readyz(call: Call) -> Reply:
    """`GET /readyz`: the process takes calls; 503 while it drains. Dependencies in `?verbose`."""
    serving = not call.api.draining.is_set()
    status = 200 if serving else 503
    if "verbose" not in call.query():
        return Reply(status, b"ok\n" if serving else b"draining\n", [_TEXT, NO_STORE])
    checks = [
        ("serving", serving),
        ("postgres", await _reaches_postgres(call)),
        ("valkey", call.api.waiters.listening),
        ("keys", call.api.keys.fresh),
    ]
    lines = [f"[+]{name} ok" if fine else f"[-]{name} failed" for name, fine in checks]
    lines.append(f"readyz check {'passed' if serving else 'failed'}")
    return Reply(status, "".join(f"{line}\n" for line in lines).encode(), [_TEXT, NO_STORE])


async def get_metrics(call: Call) -> Reply:
    """`GET /metrics`: the series of all processes on this socket, as Prometheus reads them."""
    del call
    settle()
    kind = (b"content-type", CONTENT_TYPE.encode())
    return Reply(200, _SHOWN.text(), [kind, NO_STORE])


async def _reaches_postgres(call: Call) -> bool:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await call.api.desk.ask(resources.check)
    except (Problem, TimeoutError):
        return False
    return True
