"""The history: every call of the driver and what came of it, on disk before anything is made of it.

An entry is appended when a call goes out and another when it ends. A call that has no end, or whose
end is `unknown`, may have happened or not, or may happen later. The file is synced several times a
second: a harness that dies leaves what it knew.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

Op = Literal["post", "rebody", "poll", "find", "pay", "cancel", "announced"]
Phase = Literal["invoke", "ok", "no", "missing", "unknown"]

_SYNC_EVERY_S: Final = 0.1


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `at` is in seconds of the harness's monotonic clock.

    The end of a call is `ok` (what it asked for came), `no` (surely without effect), `missing` (there
    is no such intent) or `unknown`. `outcome` spells the told outcome; empty while there is none.
    """

    at: float
    call: int  # the same for a call's beginning and end
    op: Op
    phase: Phase
    key: str = ""
    user: str = ""
    kind: str = ""
    units: dict[str, int] = field(default_factory=dict)  # by SKU, as asked for
    coupon: bool = False
    intent_id: str = ""
    outcome: str = ""
    order_status: str = ""
    reason: str = ""
    final: bool = False
    http: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class History:
    """A new file, appended to from any thread. Close it to have all on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[tuple[Op, Phase]] = Counter()
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
        self._lock = threading.Lock()
        self._calls = 0
        self._dirty = False
        self._closing = threading.Event()
        self._syncing = threading.Thread(target=self._sync_now_and_then, daemon=True)
        self._syncing.start()

    def begin(self, op: Op, **said: object) -> int:
        """Write that a call goes out; return its number."""
        with self._lock:
            self._calls += 1
            call = self._calls
        self._write(
            msgspec.convert({"at": now(), "call": call, "op": op, "phase": "invoke", **said}, Entry)
        )
        return call

    def end(self, call: int, op: Op, phase: Phase, **said: object) -> Entry:
        """Write how a call ended."""
        entry = msgspec.convert(
            {"at": now(), "call": call, "op": op, "phase": phase, **said}, Entry
        )
        self._write(entry)
        return entry

    def close(self) -> None:
        """Sync and close. Idempotent."""
        self._closing.set()
        self._syncing.join()
        with self._lock:
            if self._fd >= 0:
                os.fsync(self._fd)
                os.close(self._fd)
                self._fd = -1

    def _write(self, entry: Entry) -> None:
        with self._lock:
            if self._fd < 0:  # somebody who heard too late
                return
            os.write(self._fd, _encode(entry) + b"\n")
            self.counts[entry.op, entry.phase] += 1
            self._dirty = True

    def _sync_now_and_then(self) -> None:
        while not self._closing.wait(_SYNC_EVERY_S):
            if self._dirty:
                self._dirty = False
                os.fsync(self._fd)


def now() -> float:
    """Return the seconds by which entries, faults and samples are dated."""
    return time.monotonic()


def read(path: Path) -> list[Entry]:
    """Read a history; a last line that was torn by a death is left out.

    Raises msgspec.MsgspecError for a line that is torn anywhere else.
    """
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # empty after a whole last line, torn otherwise
    return [_decode(line) for line in lines]
