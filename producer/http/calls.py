"""A call and its reply: what every handler gets and gives, whichever server speaks HTTP."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from msgspec import Struct

from config.sampling import Sample
from config.tracing import Context
from producer.answers import Answer, Posted
from producer.http import headers as fields
from producer.http.auth import Gateway
from producer.http.messages import Language
from producer.http.problems import Code, Problem, Refusal, more_closed, render, told_to_wait
from workers.contract import trace
from workers.domain.appointment import Appointment
from workers.domain.overload import Level

if TYPE_CHECKING:
    from producer.http.api import Api

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Fields = list[tuple[bytes, bytes]]  # of a header: lower-case names, values as sent
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

INTENT_BYTES_MAX = 8 * 1_024
BATCH_BYTES_MAX = 1_024 * 1_024
_QUERY_BYTES_MAX = 4 * 1_024

_PARAMETER = re.compile(r"\{(\w+)\}")
_LANGUAGES_MAX = 256  # bytes of Accept-Language that are read, and remembered

# Said twice and differently, these leave it open what was meant.
_SAID_ONCE = (
    b"authorization",
    b"content-type",
    b"idempotency-key",
    b"tidegate-appointment",
    b"traceparent",
)

# An extension of ASGI's scope: the connection's transport, for whoever tells thousands the same.
TRANSPORT: Final = "tidegate.transport"

JSON_HEADER = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
_CLOSE = ((b"connection", b"close"),)  # whoever sends too much is not read to the end


class Reply(Struct, frozen=True):
    """An answer with its whole body."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


class Stream(NamedTuple):
    """An answer whose body comes in pieces; the iterator is closed when the caller leaves."""

    status: int
    pieces: AsyncGenerator[bytes, None]
    headers: list[tuple[bytes, bytes]]


class Feed(NamedTuple):
    """An answer without end, told to many at once: by whoever `join` hands the connection to.

    `join` is called once the head is sent, and returns what is to be called when the caller leaves.
    """

    status: int
    join: Callable[[asyncio.Transport], Callable[[], None]]
    headers: list[tuple[bytes, bytes]]


Handler = Callable[["Call"], Awaitable[Reply | Stream | Feed]]


class CallerGone(Exception):
    """The caller closed the connection before all was said."""


class Call:
    """One HTTP call, and what is to be told of it: see `access`.

    `gateway` is who calls. `posted` is the intent that came with it and `given` the intake's answer;
    of a batch `items` counts the statuses and `accepted` names the accepted. `code`, `limit` and
    `level` are of the problem that was told, `fault` is what was raised that is none. `context` is
    the place of the call in a trace that is followed; False: it is not; None: not asked yet.
    """

    __slots__ = (
        "_receive",
        "_trace",
        "accepted",
        "api",
        "began",
        "code",
        "context",
        "fault",
        "gateway",
        "given",
        "headers",
        "items",
        "level",
        "limit",
        "locale",
        "posted",
        "route",
        "scope",
    )

    def __init__(self, api: Api, route: str, scope: Scope, receive: Receive) -> None:
        """Take the header fields apart. `locale` is to be set where an intent names one."""
        raw = scope["headers"]
        self.api = api
        self.route = route
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(raw)
        self.locale: str | None = None
        self._receive = receive
        self._trace = 0
        self.began = time.perf_counter()
        self.gateway: str | None = None
        self.posted: Posted | None = None
        self.given: Answer | None = None
        self.items: Counter[int] | None = None
        self.accepted: Sequence[UUID] = ()
        self.code: str | None = None
        self.limit: str | None = None
        self.level = Level.NORMAL
        self.fault: Exception | None = None
        self.context: Context | Literal[False] | None = None

    def fold(self) -> None:
        """Join the fields that came more than once; raises Problem where that makes no sense."""
        raw = self.scope["headers"]
        if len(self.headers) != len(raw):
            self.headers = _folded(raw)

    @property
    def method(self) -> str:
        """The method."""
        return str(self.scope["method"])

    @property
    def instance(self) -> str:
        """The path for problems: of its parameters only ids are told, and nothing a user wrote."""
        if "{" not in self.route:
            return self.route or "/"
        return _PARAMETER.sub(lambda found: self._id_of(found[1]), self.route)

    @property
    def trace(self) -> int:
        """The id of the caller's trace, or one of our own."""
        if not self._trace:
            self._trace = trace.trace_of(self.headers.get(b"traceparent"))
        return self._trace

    @property
    def trace_id(self) -> str:
        """The same, as it is told."""
        return trace.trace_text(self.trace)

    def is_in(self, sample: Sample) -> bool:
        """Say whether the trace is in a sample; reads most ids no further than that takes."""
        given = self.headers.get(b"traceparent")
        if given is not None and len(given) == trace.TRACEPARENT_BYTES:
            return sample.may_hold(given[trace.DIGITS]) and sample.holds(self.trace)
        return sample.holds(self.trace)

    @property
    def language(self) -> Language:
        """The language of the intent, or the one the caller prefers."""
        if self.locale is not None:
            return self.api.messages.language_for(self.locale)
        accepted = self.headers.get(b"accept-language", b"")[:_LANGUAGES_MAX]
        return self.api.messages.language_for(None, accepted)

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection, where the server lends it and the body of a `Feed` can be written to it."""
        if self.scope["http_version"] != "1.1" or self.scope["method"] != "GET":
            return None
        found: asyncio.Transport | None = self.scope.get("extensions", {}).get(TRANSPORT)
        return found

    def parameter(self, name: str) -> str:
        """Return a parameter of the path."""
        return str(self.scope["path_params"][name])

    def query(self) -> dict[str, str]:
        """Return the query's parameters; raises Problem for one unreadable or said twice."""
        raw = self.scope["query_string"]
        try:
            if len(raw) > _QUERY_BYTES_MAX:
                raise ValueError("too long")
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20
            )
        except ValueError:
            raise Problem(Code.INVALID_PARAMETER, "The query cannot be read.") from None
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Problem(Code.INVALID_PARAMETER, "A parameter is given twice.")
        return found

    async def authorise(self, scope: str | None) -> Gateway:
        """Return the calling gateway; raises Problem unless its key is known and has the scope.

        None: any key will do.
        """
        authorization = self.headers.get(b"authorization")
        keys = self.api.keys
        gateway = keys.known(authorization)
        if gateway is None:
            gateway = await keys.identify(authorization)
        self.gateway = gateway.gateway_id
        return _in_scope(gateway, scope)

    def known_gateway(self, scope: str) -> Gateway | None:
        """Return the calling gateway if its key is known at once; raises Problem like `authorise`."""
        gateway = self.api.keys.known(self.headers.get(b"authorization"))
        if gateway is None:
            return None
        self.gateway = gateway.gateway_id
        return gateway if scope in gateway.scopes else _in_scope(gateway, scope)

    async def body(self, bytes_max: int) -> bytes:
        """Read the body; raises Problem when there is more of it than allowed."""
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared[:19]) > bytes_max:
            raise _too_large(bytes_max)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False) and len(body) <= bytes_max:
            message = await self._receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise CallerGone
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body

    async def json_body(self, bytes_max: int) -> bytes:
        """Read a body that must be JSON."""
        self.require_json()
        return await self.body(bytes_max)

    def require_json(self) -> None:
        """Raise Problem unless the body is JSON."""
        content_type = self.headers.get(b"content-type")
        if content_type != b"application/json" or b"content-encoding" in self.headers:
            self.require_media_type(fields.JSON)

    def require_media_type(self, accepted: tuple[bytes, ...]) -> None:
        """Raise Problem unless the body is of one of these types, and not compressed."""
        names = " or ".join(name.decode() for name in accepted)
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.strip().lower() != b"identity":
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding.")
        if not fields.is_media_type(self.headers.get(b"content-type"), accepted):
            raise Problem(
                Code.UNSUPPORTED_MEDIA_TYPE, f"Send the body as {names}, in UTF-8.", headers=_CLOSE
            )

    def idempotency_key(self) -> str:
        """Return the call's idempotency key; raises Problem where it is missing or unreadable."""
        raw = self.headers.get(b"idempotency-key")
        if raw is None:
            raise Problem(
                Code.IDEMPOTENCY_KEY_MISSING,
                "Send an Idempotency-Key: one key for one intent, the same when asking again.",
            )
        try:
            return fields.idempotency_key(raw)
        except fields.HeaderError as error:
            raise Problem(Code.IDEMPOTENCY_KEY_INVALID, f"Idempotency-Key {error}.") from None

    def ticket(self) -> str | None:
        """Return the ticket the call came with; raises Problem for what cannot be one."""
        raw = self.headers.get(b"tidegate-appointment")
        if raw is None:
            return None
        try:
            return fields.ticket(raw)
        except fields.HeaderError as error:
            raise Problem(Code.INVALID_PARAMETER, f"Tidegate-Appointment {error}.") from None

    def render(self, problem: Problem) -> Reply:
        """Write a problem, in the language of the intent."""
        api = self.api
        self.code, self.limit, self.level = problem.code.word, problem.limit, problem.level
        return Reply(
            *render(
                problem,
                messages=api.messages,
                language=self.language,
                instance=self.instance,
                trace_id=self.trace_id,
                level=api.levels.standing.level,
            )
        )

    def refuse(
        self,
        refusal: Refusal,
        wait_ms: int,
        level: Level,
        headers: Fields,
        appointment: Appointment | None = None,
        jitter_ms_max: int | None = None,
    ) -> Reply:
        """Tell to come back later, as `render` does of a problem that says so; `headers` grow."""
        api = self.api
        self.code, self.limit, self.level = refusal.word, refusal.limit, level
        body, seconds = told_to_wait(
            refusal,
            wait_ms,
            messages=api.messages,
            language=self.language,
            instance=self.instance,
            trace=self.trace,
            level=more_closed(level, api.levels.standing.level),
            appointment=appointment,
            jitter_ms_max=jitter_ms_max,
        )
        headers.append((b"retry-after", b"%d" % seconds))
        return Reply(refusal.status, body, headers)

    def answer(self, make: Callable[[], Reply]) -> Reply:
        """Return what `make` makes, or tell the caller what it raised."""
        try:
            return make()
        except Exception as error:
            return self.failure(error)

    def failure(self, error: Exception) -> Reply:
        """Tell what was raised: a problem as it is, anything else as a fault of ours."""
        if isinstance(error, Problem):
            return self.render(error)
        self.fault = error
        return self.render(
            Problem(Code.INTERNAL_ERROR, "The log has more of it.", accepted="unknown")
        )

    def _id_of(self, name: str) -> str:
        try:
            return str(UUID(self.parameter(name)))
        except ValueError:
            return "-"

    async def gone(self) -> None:
        """Return when the caller has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _in_scope(gateway: Gateway, scope: str | None) -> Gateway:
    if scope is not None and scope not in gateway.scopes:
        raise Problem(Code.SCOPE_MISSING, f"This needs a key with the scope {scope}.")
    return gateway


def _folded(raw: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    values: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        said = values.setdefault(name, [])
        if not said or name not in _SAID_ONCE:
            said.append(value)
        elif said != [value]:
            raise Problem(
                Code.INVALID_PARAMETER, f"The header {name.decode()} is given twice, differently."
            )
    return {name: b", ".join(said) for name, said in values.items()}


def _too_large(bytes_max: int) -> Problem:
    return Problem(
        Code.BODY_TOO_LARGE, f"At most {bytes_max:,} bytes are read here.", headers=_CLOSE
    )
