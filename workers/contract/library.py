"""A function library on its server: loaded where it is missing, called, never repeated.

RESP2 on purpose: replies are single bulk strings, which RESP3 would not improve, and RESP2 needs no
HELLO, one round trip less within the timeout of a reconnecting call. One connection per thread
that calls; it is opened by the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract.primary import connection_class

# What a server answers that lives, but cannot serve now; the exception's own class or this code.
_UNREACHABLE_CODES: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOPERM", "NOREPLICAS", "OOM"}
    | {"TRYAGAIN"}
)


class GateUnreachable(Exception):
    """The gate's Valkey cannot be reached or cannot take writes; nothing is admitted."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


def open_client(url: str, *, timeout_ms: int) -> redis.Redis:
    """Make a client that fits the gate: each exchange ends within the timeout, none is repeated."""
    return redis.Redis.from_url(
        url,
        connection_class=connection_class(url),
        protocol=2,
        decode_responses=False,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )


class Source:
    """The text of a library, with its version; `asks_version` is the function that tells it."""

    def __init__(self, file: str, asks_version: str) -> None:
        self.text = files("workers.contract").joinpath(file).read_text()
        self.version = int(self.text.partition("local VERSION = ")[2].partition("\n")[0])
        self.asks_version = asks_version


class Library:
    """Calls of a library, and plain commands; each may raise `GateUnreachable`."""

    def __init__(self, client: redis.Redis, source: Source) -> None:
        _check_client(client)
        self._source = source
        # redis-py leaves these untyped; replies differ by command.
        self._execute: Callable[..., Any] = client.execute_command
        self._pool: Any = client.connection_pool

    def call(self, function: str, keys: Sequence[str], *args: bytes | str) -> Any:
        """Call a function; load the library if the server has none or an older one."""
        call = ("FCALL", function, len(keys), *keys, self._source.version, *args)
        try:
            return _reached(self._exchange, call)
        except redis.ResponseError as error:
            if _code(error) != "TIDEGATE_OUTDATED" and "Function not found" not in str(error):
                raise
        self._load()
        return _reached(self._exchange, call)

    def _load(self) -> None:
        """Load the library, unless the server has it or a newer one; two may do so at once.

        Never over the same version: a library's memory goes with it.
        """
        source = self._source
        try:
            self.command("FUNCTION", "LOAD", source.text)
        except redis.ResponseError as error:
            if "already exists" not in str(error):
                raise
            if self.command("FCALL", source.asks_version, 0) < source.version:
                self.command("FUNCTION", "LOAD", "REPLACE", source.text)

    def command(self, *command: Any) -> Any:
        """Execute a command as it is."""
        return _reached(self._execute, command)

    def _exchange(self, *call: Any) -> Any:
        """Send a call and read its reply: what `execute_command` does where nothing is repeated.

        It takes three times the processor's time for that, and a call is made for every batch.
        """
        connection = self._pool.get_connection()  # one that lives, or a new one
        try:
            connection.send_command(*call)
            return connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # what may come yet must not be read as the next call's reply
            raise
        finally:
            self._pool.release(connection)


def _reached(execute: Callable[..., Any], command: Sequence[Any]) -> Any:
    """Execute a command; raises GateUnreachable for all that says that it could not be."""
    try:
        return execute(*command)
    except (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse) as error:
        raise GateUnreachable(f"{GateUnreachable.__doc__} ({error})") from error
    except redis.ResponseError as error:
        if _code(error) in _UNREACHABLE_CODES:
            raise GateUnreachable(f"{GateUnreachable.__doc__} ({error})") from error
        raise


def _code(error: redis.ResponseError) -> str:
    # redis-py takes the code off the message of the errors it knows, and only of those.
    return error.status_code or str(error).partition(" ")[0]


def _check_client(client: redis.Redis) -> None:
    options = client.connection_pool.connection_kwargs
    retry = client.get_retry()
    fits = {
        "socket_timeout": bool(options.get("socket_timeout")),
        "socket_connect_timeout": bool(options.get("socket_connect_timeout")),
        "decode_responses": not options.get("decode_responses"),
        "retry": retry is not None and retry.get_retries() == 0,
    }
    unfit = [name for name, fit in fits.items() if not fit]
    if unfit:
        raise ValueError(f"expected a client as open_client makes it; {', '.join(unfit)} differ")
