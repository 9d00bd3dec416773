"""The gate: admits purchase intents against limits and the in-flight bound, in Valkey.

One call to the function library in gate.lua serves a whole batch; its header is the specification.
The gate holds no truth. What it forgets costs speed only: until it is reconciled with the open
intents of the journal, it admits a small fixed rate. When it cannot be asked it raises
`GateUnreachable`, and nothing is admitted. An admission whose reply was lost leaves its ids in
flight; the next reconciliation removes them, since nobody journalled them.

Why reconciling is safe at any speed, with any number of reconcilers, each of which may stop
anywhere. Ids are added that were open when the journal was read: at worst one of them has been
settled since, and is counted until the next round. Ids are removed that were not open then and
were made more than a grace before the reconciliation began, so that they are settled or never will
be journalled: an id that is admitted while a slow reconciler runs is younger than what it removes.
Counting too much admits too little, for one round; the bound is never overrun.

RESP2 on purpose: replies are single bulk strings, which RESP3 would not improve, and RESP2 needs no
HELLO, one round trip less within the timeout of a reconnecting call. One connection per thread
that calls; it is opened by the first call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import redis
from msgspec import Struct
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings
from workers.contract.admission import CampaignLimits, Candidate, Quota, RateLimit, Verdict
from workers.contract.names import gate_names
from workers.contract.packing import Batch, join_ids

__all__ = [
    "CampaignLimits",
    "Candidate",
    "Gate",
    "GateUnreachable",
    "Quota",
    "RateLimit",
    "Reconciliation",
    "Verdict",
    "open_client",
]

CANDIDATES_PER_CALL_MAX: Final = 500  # A call holds the server for about 4 ms.
IDS_PER_CALL_MAX: Final = 5_000  # The same, for ids that leave.
SCAN_COUNT: Final = 1_000  # The same, for ids that are looked at.
ID_BYTES: Final = 16
GRACE_MS: Final = 30_000  # Longer than any intent takes from admission to the journal's commit.
DRIFT_MAX: Final = 0.02  # Share of the in-flight ids: less is what is under way between the two.

_LIBRARY: Final = files("workers.contract").joinpath("gate.lua").read_text()
LIBRARY_VERSION: Final = int(_LIBRARY.partition("local VERSION = ")[2].partition("\n")[0])

# What a server answers that lives, but cannot serve now; the exception's own class or this code.
_UNREACHABLE_CODES: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOPERM", "NOREPLICAS", "OOM"}
    | {"READONLY", "TRYAGAIN"}
)


class GateUnreachable(Exception):
    """The gate's Valkey cannot be reached or cannot take writes; nothing is admitted."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class Reconciliation(Struct, frozen=True):
    """What a reconciliation found and did.

    `finished` is false if the gate lost its memory meanwhile: run it again. `compared_only` says
    that the counts agreed and nothing was touched.
    """

    finished: bool
    compared_only: bool
    added: int
    removed: int


def open_client(url: str, *, timeout_ms: int) -> redis.Redis:
    """Make a client that fits the gate: each exchange ends within the timeout, none is repeated."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )


def open_gate(settings: Settings) -> Gate:
    """Make the gate's client from the settings; it connects when it is first asked."""
    return Gate(
        open_client(settings.valkey.url, timeout_ms=settings.valkey.timeout_ms),
        key_prefix=settings.valkey.key_prefix,
        in_flight_max=settings.admission.in_flight_max,
        unreconciled_rate=settings.admission.unreconciled_rate,
    )


class Gate:
    """Admission by batches. Every method may raise `GateUnreachable`.

    `in_flight_max` bounds the intents without outcome; `unreconciled_rate`, a second, is admitted
    while the gate does not know them.
    """

    def __init__(
        self, client: redis.Redis, *, key_prefix: str, in_flight_max: int, unreconciled_rate: int
    ) -> None:
        _check_client(client)
        if in_flight_max < 1:
            raise ValueError(f"expected in_flight_max of 1 or more, got {in_flight_max}")
        # redis-py leaves this method untyped; its replies differ by command.
        self._execute: Callable[..., Any] = client.execute_command
        self._names = gate_names(key_prefix)
        self._in_flight_max = in_flight_max
        # A tenth of a second's worth at once: a batch passes, a second's worth cannot pass twice.
        self._unreconciled = RateLimit(unreconciled_rate, max(1, unreconciled_rate // 10))

    def admit(
        self,
        candidates: Sequence[Candidate],
        campaign_limits: Mapping[str, CampaignLimits],
        gateway_limits: Mapping[str, RateLimit],
    ) -> list[Verdict]:
        """Admit or refuse each candidate, in order; a refused one has consumed nothing.

        Limits that a mapping or a campaign leaves out do not bind. Beyond
        `CANDIDATES_PER_CALL_MAX` candidates it takes several calls; if one of them fails, the
        earlier calls' ids stay in flight until the next reconciliation.
        """
        verdicts: list[Verdict] = []
        for first in range(0, len(candidates), CANDIDATES_PER_CALL_MAX):
            part = candidates[first : first + CANDIDATES_PER_CALL_MAX]
            batch = Batch(part, campaign_limits, gateway_limits, self._names.limits)
            keys = (self._names.in_flight, self._names.epoch, self._names.unreconciled)
            packed = batch.packed(self._in_flight_max, self._unreconciled)
            verdicts += batch.verdicts(self._call("tidegate_admit", keys, batch.ids(), packed))
        return verdicts

    def settle(self, ids: Sequence[UUID], announcement: bytes) -> None:
        """Take intents that have their outcome out of flight, and publish the announcement.

        Repeating it is harmless to the gate; subscribers hear the announcement again.
        """
        rest = max(0, len(ids) - IDS_PER_CALL_MAX)
        self.release(ids[:rest])
        self._call(
            "tidegate_settle",
            (self._names.in_flight,),
            join_ids(ids[rest:]),
            self._names.outcome_channel,
            announcement,
        )

    def release(self, ids: Sequence[UUID]) -> None:
        """Take intents that were admitted, but not journalled, out of flight."""
        for first in range(0, len(ids), IDS_PER_CALL_MAX):
            part = join_ids(ids[first : first + IDS_PER_CALL_MAX])
            self._call("tidegate_release", (self._names.in_flight,), part)

    def in_flight(self) -> int:
        """Return how many intents are in flight, as far as the gate knows."""
        return int(self._command("SCARD", self._names.in_flight))

    def reconciled(self) -> bool:
        """Say whether the gate knows what is in flight; it does not after a start or a flush."""
        keys = (self._names.in_flight, self._names.epoch)
        return bool(self._call("tidegate_state", keys)[1])

    def reconcile(
        self,
        open_ids: Callable[[], Iterable[UUID]],
        *,
        open_count: Callable[[], int] | None = None,
        grace_ms: int = GRACE_MS,
    ) -> Reconciliation:
        """Make the in-flight set equal to the open intents, in steps of a few milliseconds.

        `open_ids` reads all open intents of the journal, from the primary; it is called after the
        reconciliation has begun, and once more if ids turn out to be missing. With `open_count`, a
        reconciled gate whose count agrees within `DRIFT_MAX` is left alone.
        """
        key = self._names.reconciling_key(token := secrets.token_hex(8))
        begin_keys = (self._names.in_flight, self._names.epoch, key)
        now_ms, in_flight, reconciled = self._call("tidegate_reconcile_begin", begin_keys, token)
        if reconciled and open_count and _agree(in_flight, open_count()):
            return Reconciliation(finished=True, compared_only=True, added=0, removed=0)

        is_open = {intent_id.bytes for intent_id in open_ids()}
        seen, removed = self._remove_stale(is_open, now_ms, grace_ms)
        missing = is_open - seen
        if reconciled and missing:
            # Most are not missing, but settled since they were read as open. Whoever is still open
            # now was missing indeed.
            missing &= {intent_id.bytes for intent_id in open_ids()}
        self._add_missing(list(missing))
        finish_keys = (self._names.epoch, key)
        finished = self._call("tidegate_reconcile_finish", finish_keys) == 1
        return Reconciliation(finished, compared_only=False, added=len(missing), removed=removed)

    def _remove_stale(
        self, is_open: set[bytes], began_ms: int, grace_ms: int
    ) -> tuple[set[bytes], int]:
        """Remove what is not open, unless it is too young to judge; return what was seen, too."""
        seen: set[bytes] = set()
        removed, cursor = 0, 0
        while True:
            cursor, members = self._command(
                "SSCAN", self._names.in_flight, cursor, "COUNT", SCAN_COUNT
            )
            seen.update(members)
            # Made after now: by a host whose clock ran ahead. Not after the beginning, or a
            # reconciler that slept would remove what came meanwhile.
            seconds, microseconds = self._command("TIME")
            newest_ms = seconds * 1_000 + microseconds // 1_000 + grace_ms
            stale = [
                member
                for member in members
                if member not in is_open
                and not began_ms - grace_ms <= _made_at_ms(member) <= newest_ms
            ]
            if stale:
                removed += int(self._command("SREM", self._names.in_flight, *stale))
            if cursor == 0:
                return seen, removed

    def _add_missing(self, missing: Sequence[bytes]) -> None:
        for first in range(0, len(missing), SCAN_COUNT):
            self._command("SADD", self._names.in_flight, *missing[first : first + SCAN_COUNT])

    def _call(self, function: str, keys: Sequence[str], *args: bytes | str) -> Any:
        """Call a library function; load the library if the server has none or an older one."""
        call = ("FCALL", function, len(keys), *keys, LIBRARY_VERSION, *args)
        try:
            return self._command(*call)
        except redis.ResponseError as error:
            if _code(error) != "TIDEGATE_OUTDATED" and "Function not found" not in str(error):
                raise
        self._load()
        return self._command(*call)

    def _load(self) -> None:
        """Load the library, unless the server has a newer one. Two processes may do so at once."""
        try:
            self._command("FUNCTION", "LOAD", _LIBRARY)
        except redis.ResponseError as error:
            if "already exists" not in str(error):
                raise
            if self._command("FCALL", "tidegate_version", 0) <= LIBRARY_VERSION:
                self._command("FUNCTION", "LOAD", "REPLACE", _LIBRARY)

    def _command(self, *command: Any) -> Any:
        try:
            return self._execute(*command)
        except (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse) as error:
            raise GateUnreachable from error
        except redis.ResponseError as error:
            if _code(error) in _UNREACHABLE_CODES:
                raise GateUnreachable(f"{GateUnreachable.__doc__} ({error})") from error
            raise


def _code(error: redis.ResponseError) -> str:
    # redis-py takes the code off the message of the errors it knows, and only of those.
    return error.status_code or str(error).partition(" ")[0]


def _agree(in_flight: int, open_count: int) -> bool:
    return abs(in_flight - open_count) <= DRIFT_MAX * in_flight


def _made_at_ms(member: bytes) -> int:
    """Return when a UUIDv7 was made; what is no id was made long ago."""
    return int.from_bytes(member[:6]) if len(member) == ID_BYTES else 0


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
