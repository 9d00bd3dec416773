"""Several processes that serve on one socket: started together, started again, ended together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

from config import logging

_log = structlog.get_logger()

RESTART_PAUSE_S: Final = 1.0  # a child that cannot live must not be born a thousand times a second
_TURN_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1


class Family:
    """The parent of serving processes. It must have no threads: it forks."""

    def __init__(self, serve: Callable[[int], int], size: int) -> None:
        """`serve` runs in each child, is told its place from 0, and returns its exit status."""
        self._serve = serve
        self._size = size
        self._children: dict[int, int] = {}  # places, by pid
        self._ending = False

    def run(self, stop_timeout_s: float) -> int:
        """Keep the children alive until SIGTERM or SIGINT; end them, by force after the timeout."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        next_birth = time.monotonic()
        while not self._ending:
            if len(self._children) < self._size and time.monotonic() >= next_birth:
                self._start()
                if len(self._children) == self._size:
                    next_birth = time.monotonic() + RESTART_PAUSE_S
            self._bury()
            time.sleep(_TURN_S)
        self._stop(stop_timeout_s)
        return 0

    def _start(self) -> None:
        parent = os.getpid()
        place = min(set(range(self._size)) - set(self._children.values()))
        pid = os.fork()
        if pid:
            self._children[pid] = place
            return
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            _end_with(parent)
            status = self._serve(place)
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
        except BaseException:
            _log.exception("serving process failed")
        finally:
            logging.flush()
            sys.stderr.flush()
            os._exit(status)

    def _bury(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._children[pid]
                if not self._ending:
                    code = os.waitstatus_to_exitcode(status)
                    _log.warning("serving process ended", pid=pid, status=code)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._ending = True

    def _stop(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        self._tell(signal.SIGTERM)
        while self._children and time.monotonic() < until:
            self._bury()
            time.sleep(_TURN_S)
        self._tell(signal.SIGKILL)
        while self._children:
            self._bury()
            time.sleep(_TURN_S)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent dies, however that dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
