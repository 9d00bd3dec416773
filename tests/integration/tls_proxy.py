"""What a server with TLS is to its clients: the embedded servers are built without it.

A proxy that speaks TLS and hands everything on in the clear. PostgreSQL's clients ask for it first
(SSLRequest); who goes on in the clear is let go, as by a pg_hba.conf that only knows `hostssl`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Authority(NamedTuple):
    """A certificate authority, and a server's certificate of it with its key in the same file."""

    ca: Path
    server: Path


def authority(folder: Path, host: str = "localhost") -> Authority:
    """Make an authority of one's own, and let it certify a host."""
    folder.mkdir(exist_ok=True)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    key, ca = folder / "ca.key", folder / "ca.pem"
    _openssl("req", "-x509", *curve, "-subj", "/CN=test", "-keyout", key, "-out", ca)
    server = folder / "server.pem"
    asked = folder / "server.csr"
    _openssl("req", *curve[:-2], "-subj", f"/CN={host}", "-keyout", server, "-out", asked)
    extension = folder / "server.ext"
    extension.write_text(f"subjectAltName=DNS:{host}\n")
    signing = ("-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", extension)
    certificate = _openssl("x509", "-req", "-in", asked, *signing)
    server.write_bytes(server.read_bytes() + certificate)
    return Authority(ca, server)


def _openssl(*line: str | Path) -> bytes:
    return subprocess.run(["openssl", *line], capture_output=True, check=True).stdout


class TlsProxy:
    """Serves one server over TLS, on a free port; a context manager. Counts who was let in."""

    def __init__(self, host: str, port: int, certificate: Path, *, postgres: bool = False) -> None:
        self._target = (host, port)
        self._postgres = postgres
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0
        self.admitted = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        context = None if self._postgres else self._context
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        with _leaving(writer):
            if self._postgres:
                if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
                    return
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._context)
            self.admitted += 1
            inner_reader, inner_writer = await asyncio.open_connection(*self._target)
            with _leaving(inner_writer):
                ways = (_pump(reader, inner_writer), _pump(inner_reader, writer))
                pumps = [asyncio.create_task(way) for way in ways]
                self._pumps.update(pumps)
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self._pumps.discard(task)


@contextmanager
def _leaving(writer: asyncio.StreamWriter) -> Iterator[None]:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        try:
            yield
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


def proxied(url: str, ours: Authority) -> TlsProxy:
    """A proxy in front of the server of a URL."""
    place = urlsplit(url)
    is_postgres = place.scheme == "postgresql"
    return TlsProxy(str(place.hostname), int(place.port or 0), ours.server, postgres=is_postgres)


def valkey_over_tls(
    url: str, port: int, ca: Path | None, host: str = "localhost", scheme: str = "rediss"
) -> str:
    """A Valkey's URL by way of a proxy; without `ca` the system's authorities are asked."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    query = "" if ca is None else f"?ssl_ca_certs={ca}"
    return f"{scheme}://{login}@{host}:{port}/0{query}"


def postgres_over_tls(dsn: str, port: int, ca: Path, host: str = "localhost") -> str:
    login, _, rest = dsn.rpartition("@")
    name = rest.partition("/")[2]
    return f"{login}@{host}:{port}/{name}?sslmode=verify-full&sslrootcert={ca}"


@contextmanager
def over_tls(
    urls: Mapping[str, str], dsn: str, folder: Path
) -> Iterator[tuple[dict[str, str], str]]:
    """The same servers, each behind a proxy: these users' URLs of Valkey, and the DSN."""
    ours = authority(folder / "authority")
    with proxied(next(iter(urls.values())), ours) as valkey, proxied(dsn, ours) as postgres:
        secured = {name: valkey_over_tls(url, valkey.port, ours.ca) for name, url in urls.items()}
        yield secured, postgres_over_tls(dsn, postgres.port, ours.ca)
        assert valkey.admitted
        assert postgres.admitted
