"""How httpx is used by both clients: its settings, and what its errors mean."""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from producer.client.flow import Options
from producer.client.replies import Lost, Reply
from producer.client.requests import Request

UNENDING: Final = Lost(True, "an answer that does not end")
BODY_BYTES_MAX: Final = 8 * 1024 * 1024  # of an answer; one to a full batch has half a million
_KEEP_ALIVE_S: Final = 30.0  # shorter than the API keeps an idle connection: no call meets its end
_AGENT: Final = "tidegate-client"
# Raised before the call was sent: surely nothing came of it. RuntimeError: the client was closed.
_UNSENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    RuntimeError,
)
ERRORS: Final = (httpx.HTTPError, httpx.StreamError, RuntimeError)

Verify = bool | ssl.SSLContext


def settings(url: str, key: str, options: Options, verify: Verify) -> dict[str, Any]:
    """Make the settings of an httpx client; raises ValueError for a URL or key of no use."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        msg = f"{url!r} is not the root of an API, such as https://orders.example"
        raise ValueError(msg)
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the gateway's key is empty, or holds what no key can hold")
    return {
        "base_url": url.rstrip("/"),
        "headers": {"authorization": f"Bearer {key}", "user-agent": _AGENT},
        "limits": httpx.Limits(
            max_connections=options.connections_max,
            max_keepalive_connections=options.connections_max,
            keepalive_expiry=_KEEP_ALIVE_S,
        ),
        "verify": verify,
    }


def arguments(request: Request, options: Options) -> dict[str, Any]:
    """Say a request as httpx takes it, with its own timeouts."""
    return {
        "method": request.method,
        "url": request.path,
        "headers": list(request.headers.items()),
        "content": request.body or None,
        "timeout": httpx.Timeout(
            request.timeout_s, connect=options.connect_timeout_s, pool=options.timeout_s
        ),
    }


def whole_s(request: Request, options: Options) -> float:
    """Return how long a call may last in all: its wait for a connection, connecting, its answer.

    httpx bounds each of them, but an answer only from one byte to the next.
    """
    return options.timeout_s + options.connect_timeout_s + request.timeout_s


def is_whole(response: httpx.Response) -> bool:
    """Tell whether an answer that says how long it is has come to its end."""
    length = response.headers.get("content-length", "")
    return length.isdecimal() and response.num_bytes_downloaded >= int(length[:18])


def reply(response: httpx.Response, body: bytes) -> Reply:
    """Keep of an answer what the flows read."""
    return Reply(response.status_code, dict(response.headers), body)


def lost(error: Exception) -> Lost:
    """Say what an error leaves open."""
    return Lost(not isinstance(error, _UNSENT), f"{type(error).__name__}: {error}")
