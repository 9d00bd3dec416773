"""Writing log lines: at once, or from a thread of its own."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from select import PIPE_BUF
from typing import Final

WAITING_MAX: Final = 10_000  # lines: a minute of a busy API's, 4 MB or so
_END_S: Final = 1.0  # for what waits, at the end of the process
_LOOK_S: Final = 0.1  # between two looks at what waits


class Lines:
    """Writes lines, each with one system call and without a lock: a fork may find any lock held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def msg(self, line: bytes) -> None:
        """Write a line; nobody reads, or the disk is full: that never breaks its caller."""
        with suppress(OSError):
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:  # somebody shares the pipe who does not want to wait for it
                    select.select([], [self._descriptor], [])

    def close(self) -> None:
        """Write what waits: nothing does."""

    # As structlog names what it calls.
    debug = info = warning = error = critical = exception = log = msg


class LinesBehind(Lines):
    """Writes them behind its callers, in their order, from a thread that looks now and then.

    For who serves thousands from one thread: each system call, and each thread that is woken, lets
    another have Python's lock, and a reader that stalls would hold up everybody. Of lines beyond
    `waiting_max` only the number is kept. The thread tells it (`tell`) when it has written what waits;
    what that logs is written at once, or it would find no place either. For one process: a fork
    takes no thread along.
    """

    def __init__(
        self, descriptor: int, tell: Callable[[int], None], waiting_max: int = WAITING_MAX
    ) -> None:
        super().__init__(descriptor)
        self._tell = tell
        self._waiting_max = waiting_max
        self._waiting: deque[bytes] = deque()
        self._left_out = 0
        self._counting = threading.RLock()  # a signal's handler may log in the midst of a line
        self._ending = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: bytes) -> None:
        """Leave a line to be written."""
        if threading.get_ident() == self._thread.ident:
            return super().msg(line)
        if len(self._waiting) < self._waiting_max:
            self._waiting.append(line)
        else:
            with self._counting:
                self._left_out += 1
        if self._ended:  # perhaps since it was asked for
            self._write_waiting()

    def close(self) -> None:
        """Write what waits, as far as somebody reads it; what comes after that is written at once."""
        self._ending.set()
        self._thread.join(_END_S)

    def _write(self) -> None:
        while not self._ending.wait(_LOOK_S):
            self._write_waiting()
        self._write_waiting()
        self._ended = True
        self._write_waiting()  # what came before its caller could know

    def _write_waiting(self) -> None:
        """Write what waits by now, and tell how many could not: there may always be more."""
        due = len(self._waiting)
        while due > 0 and (taken := self._together()):
            super().msg(b"".join(taken))
            due -= len(taken)
        with self._counting:
            left_out, self._left_out = self._left_out, 0
        if left_out:
            self._tell(left_out)

    def _together(self) -> list[bytes]:
        """Take as many lines as the kernel writes in one piece, and one at least, if any is there."""
        taken: list[bytes] = []
        room = PIPE_BUF
        with suppress(IndexError):  # others take as well, once the thread has ended
            while not taken or len(self._waiting[0]) <= room:
                taken.append(self._waiting.popleft())
                room -= len(taken[-1])
        return taken

    debug = info = warning = error = critical = exception = log = msg
