"""Who calls: gateways' keys, cached by their hash and kept fresh.

Only hashes are kept, here as in the database, and a key is looked up by its own hash: comparing
digests tells a guesser nothing of how near a guess came. While PostgreSQL is away the known keys
stay good. A key that is not known makes the cache look again, at most once a second however many
ask: guessing keys costs the guesser time, and the database nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import Struct

from producer.http.problems import Code, Problem

_log = structlog.get_logger()

SCOPES = ("intents:write", "intents:read", "coupons:write", "coupons:read", "orders:write")
# None of a gateway's: whoever watches the whole system sees every tenant's campaigns.
OPERATE = "operator"  # pull levers, and see
WATCH = "operator:read"  # see
OPERATOR_SCOPES = (OPERATE, WATCH)

REFRESH_INTERVAL_S = 3.0  # a revoked key is good for no longer than this, while PostgreSQL answers
LOOK_INTERVAL_S = 1.0  # between two looks, however many keys are not known
PATIENCE_S = 2.5  # of a call whose key is not known: two looks, and no hanging on a dead database
_KEY_LENGTH_MAX = 256

_CHALLENGE = ((b"www-authenticate", b'Bearer realm="tidegate"'),)


class Gateway(Struct, frozen=True):
    """A gateway as one of its keys names it."""

    gateway_id: str
    scopes: frozenset[str]


class Keys:
    """The keys that are good now, by their SHA-256. Used on one event loop."""

    def __init__(self, load: Callable[[], Awaitable[Mapping[bytes, Gateway]]]) -> None:
        """`load` reads all keys; what it raises means that they cannot be read now."""
        self._load = load
        self._keys: Mapping[bytes, Gateway] = {}
        self._loop = asyncio.get_running_loop()
        self._loaded_at = float("-inf")
        self._began_at = float("-inf")  # of the latest attempt to load
        self._looking: asyncio.Task[None] | None = None
        self._failing = False

    @property
    def fresh(self) -> bool:
        """Whether the keys could be read lately."""
        return not self._failing and self._loaded_at > float("-inf")

    def known(self, authorization: bytes | None) -> Gateway | None:
        """Return the gateway that a credential names, as far as is known at once."""
        if authorization is None or authorization[:7] != b"Bearer ":
            return None
        return self._keys.get(hashlib.sha256(authorization[7:]).digest())

    async def identify(self, authorization: bytes | None) -> Gateway:
        """Return the gateway that a credential names; raises Problem (401; 503 if unknowable)."""
        digest = _digest(authorization)
        asked_at = self._loop.time()
        while (left_s := asked_at + PATIENCE_S - self._loop.time()) > 0:
            gateway = self._keys.get(digest)
            if gateway is not None:
                return gateway
            if self._loaded_at >= asked_at:
                raise _unauthenticated("The key is not known, or was revoked.")
            await asyncio.wait((self._look(),), timeout=left_s)
        raise Problem(
            Code.READING_UNAVAILABLE,
            "The key is not known, and keys cannot be looked up at present.",
            retry_after_ms=1_000,
            accepted="unknown",  # an earlier call with this intent's key may have been
        )

    async def keep_fresh(self) -> None:
        """Read the keys again and again; runs until cancelled."""
        while True:
            await asyncio.shield(self._look())
            await asyncio.sleep(REFRESH_INTERVAL_S)

    def _look(self) -> asyncio.Task[None]:
        """Read the keys, together with everybody who wants to just now."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._read())
        return self._looking

    async def _read(self) -> None:
        try:
            since = self._loop.time() - self._began_at
            await asyncio.sleep(max(0.0, LOOK_INTERVAL_S - since))
            self._began_at = self._loop.time()
            self._keys = await self._load()
            self._failing, self._loaded_at = False, self._began_at
        except Exception as error:  # whatever it was: the known keys stay good
            if not self._failing:
                _log.warning("keys not refreshed", error=type(error).__name__)
            self._failing = True
        finally:
            self._looking = None


def _digest(authorization: bytes | None) -> bytes:
    """Hash the key of a credential; raises Problem where there is none."""
    if authorization is None:
        raise _unauthenticated("Send the gateway's key as `Authorization: Bearer tg_…`.")
    scheme, _, key = authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key or len(key) > _KEY_LENGTH_MAX:
        raise _unauthenticated("Send the gateway's key as `Authorization: Bearer tg_…`.")
    return hashlib.sha256(key).digest()


def _unauthenticated(detail: str) -> Problem:
    return Problem(Code.UNAUTHENTICATED, detail, headers=_CHALLENGE)
