"""The log of a campaign run: what is done stays done, whatever ends the run.

One JSON line for each fact, appended to a file in the run's data folder. A chunk's line is on disk
before the next chunk begins; a run that is started again reads how far the last one came. Beats
say, every few seconds, how long a run has been going: time that was spent by a run that was killed
counts as spent. A line that a crash tore is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct, field

from tests.benchmarks.campaign_beside import Beside


class CampaignLogError(Exception):
    """A log that cannot be gone on with; the message says why and what to do."""


class Wish(Struct, frozen=True, kw_only=True, tag="wish"):
    """What the run is to do; the same in every session of it."""

    orders: int
    chunk: int
    seed: int
    repeats: float  # share of the keys that are sent twice

    @property
    def chunks(self) -> int:
        """How many chunks there are; the last may be smaller."""
        return -(-self.orders // self.chunk)

    def size(self, number: int) -> int:
        """How many orders are in chunk `number`, from 0."""
        return min(self.chunk, self.orders - number * self.chunk)


class Session(Struct, frozen=True, kw_only=True, tag="session"):
    """A start of the run."""

    at: datetime


class Beat(Struct, frozen=True, kw_only=True, tag="beat"):
    """A sign of life: seconds since the session began, and of sending chunk `chunk` in it."""

    session_s: float
    chunk: int
    sending_s: float = 0.0


class Chunk(Struct, frozen=True, kw_only=True, tag="chunk"):
    """A chunk that is done: each of its orders is in the tables.

    `seconds` are of sending and of waiting until all was decided, `interrupted_s` of it in sessions
    that ended amidst it. `rss_mib` is by process name; pages that processes share count once.
    """

    number: int
    orders_before: int
    orders: int
    seconds: float
    sending_s: float
    interrupted_s: float
    issuing_s: float
    planning_s: float
    accepted: int  # receipts, each with its outcome
    posts: int
    repeats_answered_the_same: int
    retries: int
    refused: dict[str, int]  # every no, and every receipt that became none; all were sent again
    accepted_per_s: float
    committed_per_s: float
    p50_ms: float
    p99_ms: float
    rss_mib: dict[str, float]
    cpu_s: dict[str, float]  # while sending and deciding, of the session that ended the chunk
    table_bytes: dict[str, int]


class Ended(Struct, frozen=True, kw_only=True, tag="ended"):
    """The end: what the tables hold, and what the audit said of them."""

    at: datetime
    session_s: float
    orders_in_tables: int
    receipts: int
    refused_receipts: int
    audit_clean: bool
    audit_s: float
    audit_checks: int
    violated: list[str]


class Compared(Struct, frozen=True, kw_only=True, tag="compared"):
    """After the end: the full tables beside empty ones."""

    at: datetime
    beside: Beside


Entry = Wish | Session | Beat | Chunk | Ended | Compared

_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class Standing(Struct):
    """How far a run has come, from its log's lines."""

    wish: Wish | None = None
    chunks: list[Chunk] = field(default_factory=list)
    ended: Ended | None = None
    beside: Beside | None = None
    sessions: int = 0
    elapsed_s: float = 0.0  # of all sessions but the present
    #: Seconds of sending that sessions spent on the chunk that is next, and did not finish.
    interrupted_s: float = 0.0
    _session_s: float = 0.0
    _sending_s: float = 0.0

    @property
    def orders(self) -> int:
        """Orders of finished chunks."""
        return sum(chunk.orders for chunk in self.chunks)

    def take(self, entry: Entry) -> None:
        """Add a line."""
        match entry:
            case Wish():
                self.wish = entry
            case Session():
                self.sessions += 1
                self.elapsed_s += self._session_s
                self.interrupted_s += self._sending_s
                self._session_s = self._sending_s = 0.0
            case Beat():
                self._session_s = entry.session_s
                if entry.chunk == len(self.chunks):
                    self._sending_s = entry.sending_s
            case Chunk():
                self.chunks.append(entry)
                self.interrupted_s = self._sending_s = 0.0
            case Ended():
                self.ended = entry
                self._session_s = entry.session_s
            case Compared():
                self.beside = entry.beside

    @property
    def all_in_s(self) -> float:
        """Seconds of all sessions, the last one as far as its last line."""
        return self.elapsed_s + self._session_s


class CampaignLog:
    """The log's file, opened to go on with it."""

    def __init__(self, path: Path, wish: Wish) -> None:
        """Read what is there. Raises CampaignLogError when it is of another wish, or unreadable."""
        self.standing = Standing()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._read(wish)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Write a line; all but beats are on disk when this returns."""
        self.standing.take(entry)
        line = memoryview(_encode(entry) + b"\n")
        while line:
            line = line[os.write(self._fd, line) :]
        if not isinstance(entry, Beat):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, wish: Wish) -> None:
        for entry in self._entries():
            self.standing.take(entry)
        known = self.standing.wish
        if known is None:
            self.append(wish)
        elif known != wish:
            msg = (
                f"{self._path.parent} holds a run of {known.orders:,} orders in chunks of "
                f"{known.chunk:,} with seed {known.seed} and repeats {known.repeats:g}: go on with "
                "the same, give --data another folder, or start anew with --fresh"
            )
            raise CampaignLogError(msg)

    def _entries(self) -> Iterator[Entry]:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._fd, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                yield _decode(line)
            except msgspec.MsgspecError as fault:
                msg = f"{self._path}, line {number}: {fault}; start anew with --fresh"
                raise CampaignLogError(msg) from None
