"""Sources: the addresses a deployment tells its figures at, and one bounded call of each."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

TIMEOUT_S: Final = 2.0
_BODY_BYTES_MAX: Final = 8 * 1_024 * 1_024  # a process shows some hundred lines
_PIECE_BYTES: Final = 65_536
STATUS: Final = "status"


class SourceError(Exception):
    """A source did not answer in time, or not with what it is asked for; says why."""


class Source(Struct, frozen=True, kw_only=True):
    """An address to ask. With a key it is `/v1/status`, else a process's metrics."""

    name: str
    url: str
    key: str = ""


def of_api(url: str, key: str, metrics: Iterable[tuple[str, str]]) -> list[Source]:
    """List the sources of a deployment: the status where there is a key, and every `metrics` once.

    `metrics` are pairs of name and URL. Where one is the API's, by its name, that is where it is asked:
    its own port shows the same again.
    """
    base = _with_scheme(url).rstrip("/")
    pairs = [(name, _with_scheme(one)) for name, one in metrics]
    if all(name != "api" for name, _ in pairs):
        pairs.insert(0, ("api", f"{base}/metrics"))
    status = [Source(name=STATUS, url=f"{base}/v1/status", key=key)] if key else []
    by_url = {one: Source(name=name, url=one) for name, one in reversed(pairs)}
    return [*status, *reversed(by_url.values())]


def address(url: str) -> str:
    """Name a source that has no name of its own; raises ValueError for what is no URL."""
    parts = urlsplit(_with_scheme(url))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        msg = f"{url!r} is not a URL such as http://127.0.0.1:9100/metrics"
        raise ValueError(msg)
    return parts.netloc.rpartition("@")[2]


def fetch(source: Source, timeout_s: float = TIMEOUT_S) -> bytes:
    """Ask a source once; raises SourceError. No proxy, no redirect, no answer without an end."""
    parts = urlsplit(source.url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"Authorization": f"Bearer {source.key}"} if source.key else {}
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    deadline = monotonic() + timeout_s
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise SourceError(f"the key is not taken ({answer.status})")
        if answer.status != HTTPStatus.OK:
            raise SourceError(f"answers {answer.status}")
        body = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            body += piece
            if monotonic() > deadline:
                raise SourceError(f"sends for longer than {timeout_s:g} s")
            if len(body) > _BODY_BYTES_MAX:
                raise SourceError(f"sends more than {_BODY_BYTES_MAX:,} bytes")
        return bytes(body)
    except TimeoutError:
        raise SourceError(f"no answer within {timeout_s:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SourceError(_why(error)) from None
    finally:
        connection.close()


def _why(error: Exception) -> str:
    told = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(told.split()) or type(error).__name__


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"
