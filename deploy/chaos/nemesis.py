"""The nemesis: does what the plan says, when it says so, and writes down what it did."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from deploy.chaos.harm import KINDS
from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.history import now
from deploy.chaos.plan import Fault
from deploy.chaos.world import World

_TURN_S: Final = 0.05
KILLS: Final = (
    "kill",
    "postgres-stop",
    "valkey-empty",
    "valkey-torn",
    "rabbitmq-empty",
)  # each ended a process

_encode = msgspec.json.Encoder().encode


class Done(Struct, frozen=True, kw_only=True):
    """One fault as it went. Times are of the history's clock; `done` false: it could not be done."""

    fault: Fault
    began: float
    ended: float
    said: str
    done: bool


class Nemesis:
    """One plan against one world, in a thread of its own, until `heal`."""

    def __init__(
        self,
        world: World,
        plan: Sequence[Fault],
        log: Path,
        tell: Callable[[str], None] = lambda said: None,
    ) -> None:
        self._world = world
        self._plan = plan
        self._log = log
        self._tell = tell
        self._lock = threading.Lock()
        self._open: list[tuple[float, Fault, AbstractContextManager[str], str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)
        self.done: list[Done] = []
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin: the plan's times count from now."""
        self._log.write_bytes(b"")
        self._began = now()
        self._thread.start()

    @property
    def active(self) -> list[str]:
        """What is being done right now."""
        with self._lock:
            return [said for _, _, _, said, _ in self._open]

    @property
    def counts(self) -> Counter[str]:
        """How many faults of each kind were done."""
        return Counter(one.fault.kind for one in list(self.done) if one.done)

    @property
    def kills(self) -> int:
        """How many processes were killed by signal."""
        return sum(self.counts[kind] for kind in KILLS)

    def heal(self) -> None:
        """Do nothing more, undo everything. Raises what went wrong in the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            for fault in self._plan:
                if not self._sleep_until(self._began + fault.at_s):
                    break
                self._begin(fault)
            while self._open and not self._stop.is_set():
                self._sleep_until(now() + _TURN_S)
        except BaseException as failure:
            self.failure = failure
        finally:
            for one in list(self._open):
                self._end(one)

    def _sleep_until(self, when: float) -> bool:
        """Sleep, ending what is over meanwhile; False when told to stop."""
        while True:
            for one in [one for one in self._open if one[0] <= now()]:
                self._end(one)
            if self._stop.is_set():
                return False
            left = when - now()
            if left <= 0:
                return True
            ends = min((one[0] for one in self._open), default=when)
            self._stop.wait(max(0.0, min(left, ends - now())))

    def _begin(self, fault: Fault) -> None:
        began = now()
        harm = KINDS[fault.kind](self._world, fault)
        try:
            said = harm.__enter__()
        except NotDoneError as why:
            self._write(Done(fault=fault, began=began, ended=now(), said=str(why), done=False))
            return
        with self._lock:
            self._open.append((began + fault.for_s, fault, harm, said, began))
        self._tell(said + (f", for {fault.for_s:.1f} s" if fault.for_s else ""))
        if not fault.for_s:
            self._end(self._open[-1])

    def _end(self, one: tuple[float, Fault, AbstractContextManager[str], str, float]) -> None:
        _, fault, harm, said, began = one
        with self._lock:
            self._open.remove(one)
        with contextlib.suppress(NotDoneError):
            harm.__exit__(None, None, None)
        self._write(Done(fault=fault, began=began, ended=now(), said=said, done=True))

    def _write(self, done: Done) -> None:
        self.done.append(done)
        with self._log.open("ab") as out:
            out.write(_encode(done) + b"\n")
