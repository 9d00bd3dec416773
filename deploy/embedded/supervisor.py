"""Keeps processes running: starts, restarts, stops them, and tells who they are.

One thread starts and reaps every child, and lives until `close`: the kernel ties a child's death
signal to the thread that started it. Callers wait for what that thread brings about. A child that
ends is started again after a delay that doubles with each failure and is forgotten after a stable
run. Each child leads a process group of its own: Ctrl-C at a terminal reaches only us, and what a
dead child forked is ended before it is started again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from deploy.embedded import launching, process
from deploy.embedded.child import Child
from deploy.embedded.errors import EmbeddedError

_TICK_S = 0.05
_RESTART_DELAY_S = 0.1  # the first restart: a crash costs little
_RESTART_DELAY_S_MAX = 5.0  # a process that cannot start must not eat the machine
_STABLE_S = 10.0  # a run this long wipes out earlier failures
_LOOK_S = 0.25  # how often forks of children are looked for
_HASTY_STOP_S = 1.0  # what a child still gets after `hasten`
_KILLED_S = 10.0  # for the kernel to end what was killed
_TAIL_LINES = 12

Processes = dict[str, list[int]]


@dataclass
class _Kept:
    """A child and its present life."""

    child: Child
    life: subprocess.Popen[bytes] | None = None
    started_at: float = 0
    start_at: float = 0  # not before this, in monotonic seconds
    failures: int = 0
    was_ready: bool = False
    stopping: bool = False
    forks: list[int] = field(default_factory=list)


class Supervisor:
    """A set of children.

    `on_change` is called, from our thread, whenever a pid has changed, and never twice at a time.
    """

    def __init__(
        self,
        logs: Path,
        on_change: Callable[[Processes], None] = lambda _: None,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Write logs into the folder `logs`; tell `on_event` what happens, a sentence each."""
        self._logs = logs
        self._on_change = on_change
        self._on_event = on_event
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.RLock()
        self._told: Processes = {}
        self._looked_at = 0.0
        self._closing = threading.Event()
        self._hasty = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, children: Iterable[Child]) -> None:
        """Start children together and wait until all are ready.

        Raises EmbeddedError, with the end of its log, for one that ends or is not ready in time;
        the others stay as they are.
        """
        kept = [_Kept(child) for child in children]
        with self._lock:
            self._kept |= {one.child.name: one for one in kept}
        for one in kept:
            self._await_ready(one)

    def stop(self, names: Iterable[str]) -> None:
        """Stop children together, each by its signal and within its time, and forget them."""
        with self._lock:
            kept = [self._kept[name] for name in names if name in self._kept]
            for one in kept:
                one.stopping = True
                self._signal(one, one.child.stop_signal)
        asked_at = time.monotonic()
        for one in kept:
            self._await_stop(one, asked_at)
        with self._lock:
            for one in kept:
                del self._kept[one.child.name]

    def stop_all(self, order: Sequence[Sequence[str]]) -> None:
        """Stop children role by role: each step of `order` together, what is not named first.

        In haste what is left of them is stopped all together.
        """
        with self._lock:
            named = {role for step in order for role in step}
            steps = [
                [name for name, one in self._kept.items() if one.child.role not in named],
                *([n for n, one in self._kept.items() if one.child.role in step] for step in order),
            ]
        while steps and not self._hasty.is_set():
            self.stop(steps.pop(0))
        self.stop([name for step in steps for name in step])

    def hasten(self) -> None:
        """Give those that are being stopped, and are stopped later, hardly any time."""
        self._hasty.set()

    def close(self) -> None:
        """Kill whatever still runs and end our thread."""
        self.hasten()
        with self._lock:
            names = list(self._kept)
        self.stop(names)
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def processes(self) -> Processes:
        """Return the pids of what runs now, by role."""
        found: Processes = {}
        with self._lock:
            for one in self._kept.values():
                if one.life is not None:
                    found.setdefault(one.child.role, []).append(one.life.pid)
                    if one.child.forks_role and one.forks:
                        found.setdefault(one.child.forks_role, []).extend(one.forks)
        return found

    def tell(self) -> None:
        """Call `on_change` now, from the caller's thread; raises what it raises."""
        with self._lock:
            now = self.processes()
            self._on_change(now)
            self._told = now

    def _run(self) -> None:
        while not self._closing.wait(_TICK_S):
            with self._lock:
                for one in list(self._kept.values()):
                    self._tend(one)
                self._look_for_forks()
                self._tell_changes()

    def _tell_changes(self) -> None:
        now = self.processes()
        if now == self._told:
            return
        try:
            self._on_change(now)
        except OSError as failed:  # such as a full disk; told again at the next tick
            self._say(f"cannot write down which processes run: {failed}")
        else:
            self._told = now

    def _tend(self, one: _Kept) -> None:
        if one.life is not None:
            self._reap(one, one.life)
        elif not one.stopping and time.monotonic() >= one.start_at:
            try:
                self._spawn(one)
            except OSError as failed:  # no memory, no disk, no pids: it may pass
                self._say(f"{one.child.name} cannot be started: {failed}")
                self._fail(one)

    def _say(self, event: str) -> None:
        # Who cannot be told, such as the reader of a pipe that is gone, must not end what we keep.
        with contextlib.suppress(OSError):
            self._on_event(event)

    def _spawn(self, one: _Kept) -> None:
        child = one.child
        with (self._logs / f"{child.name}.log").open("ab") as log:
            one.life = subprocess.Popen(
                launching.command(child.program, child.folder, child.death_signal, child.run_as),
                env=dict(child.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        one.started_at = time.monotonic()

    def _reap(self, one: _Kept, life: subprocess.Popen[bytes]) -> None:
        if os.waitid(os.P_PID, life.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        # Until it is reaped its pid, and so its group, is nobody else's.
        with contextlib.suppress(OSError):
            os.killpg(life.pid, Signals.SIGKILL)
        code = life.wait()
        one.life, one.forks = None, []
        if one.stopping:
            return
        if not one.was_ready:
            one.stopping = True  # never came up: its starter is told, and decides
            return
        delay_s = self._fail(one)
        self._say(f"{one.child.name} {_ended(code)}; started again in {delay_s:.1f} s")

    def _fail(self, one: _Kept) -> float:
        now = time.monotonic()
        one.failures = 1 if now - one.started_at >= _STABLE_S else one.failures + 1
        delay_s = min(_RESTART_DELAY_S * 2.0 ** min(one.failures - 1, 10), _RESTART_DELAY_S_MAX)
        one.start_at = now + delay_s
        return delay_s

    def _look_for_forks(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        self._looked_at = time.monotonic()
        for one in self._kept.values():
            if one.child.forks_role and one.life is not None:
                one.forks = process.children(one.life.pid)

    def _await_ready(self, one: _Kept) -> None:
        child = one.child
        ready = process.until(
            lambda: one.stopping or (one.life is not None and child.ready()), child.ready_timeout_s
        )
        if ready and not one.stopping:
            one.was_ready = True
            return
        what = "ended while starting" if one.stopping else "was not ready in time"
        self.stop([child.name])
        log = self._logs / f"{child.name}.log"
        msg = f"{child.name} {what}; the end of {log}:\n{_tail(log)}"
        raise EmbeddedError(msg)

    def _await_stop(self, one: _Kept, asked_at: float) -> None:
        def over() -> bool:
            allowed_s = one.child.stop_timeout_s
            if self._hasty.is_set():
                allowed_s = min(allowed_s, _HASTY_STOP_S)
            return one.life is None or time.monotonic() - asked_at > allowed_s

        process.until(over, one.child.stop_timeout_s + _TICK_S)
        if one.life is not None:
            self._say(f"{one.child.name} did not stop in time and was killed")
            with self._lock:
                self._signal(one, Signals.SIGKILL)
            process.until(lambda: one.life is None, _KILLED_S)

    def _signal(self, one: _Kept, number: Signals) -> None:
        # Under the lock only: there nothing is reaped, so the pid is the child's.
        if one.life is not None:
            with contextlib.suppress(OSError):
                os.kill(one.life.pid, number)


def _ended(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was killed by {Signals(-code).name}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)
    return "  (no log)"
