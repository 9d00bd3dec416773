"""Connections to Valkey that are let go once the server at their other end was demoted.

After a failover its name leads to another server, and the old one may live on as a replica that
answers every write with READONLY, for ever, over connections that nobody has a reason to close.
redis-py sees that only behind a Sentinel, which not everybody has.
"""

from __future__ import annotations

from typing import Any

import redis


class _Connection(redis.connection.AbstractConnection):
    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply; raises redis.ConnectionError, and is closed, where a replica answers."""
        try:
            return super().read_response(*args, **options)
        except redis.ReadOnlyError as error:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError(f"the server is a replica now: {error}") from error


class Connection(_Connection, redis.Connection):
    """Over TCP."""


class SSLConnection(_Connection, redis.SSLConnection):
    """Over TLS."""


class UnixDomainSocketConnection(_Connection, redis.UnixDomainSocketConnection):
    """Over a socket of this machine."""


_BY_SCHEME = {
    "redis": Connection,
    "rediss": SSLConnection,
    "unix": UnixDomainSocketConnection,
}


def connection_class(url: str) -> type[redis.connection.AbstractConnection]:
    """Return the class for a URL; raises ValueError for a scheme that redis-py does not know."""
    scheme = url.partition("://")[0]
    if scheme not in _BY_SCHEME:
        raise ValueError(f"expected redis://, rediss:// or unix:// at the front, got {scheme}://")
    return _BY_SCHEME[scheme]
