"""The terminal: keys as they are pressed, a screen of its own, and all as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.text import Text

from deploy.top.keys import named

_REST_S: Final = 0.05  # what follows an escape character within it belongs to the same key
_BYTES_MAX: Final = 256
# Noted, and not raised: an exception in the midst of anything can be lost there.
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminal:
    """A screen and a keyboard; a context manager. Without a keyboard there are no keys.

    Ctrl-C, SIGTERM and SIGHUP set `ended_by`; Ctrl-Z gives the terminal back while the process is
    stopped. All are noticed when keys are asked for.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._kept: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._stopped = False
        self.ended_by: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        return self._console.size.width, self._console.size.height

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, from the first of the screen on."""
        picture = Text("\n", no_wrap=True, overflow="crop").join(lines)
        self._console.update_screen(picture)

    def keys(self, wait_s: float) -> list[str]:
        """Return what was pressed; waits for it, `wait_s` at most."""
        if self._stopped:
            self._stop()
        if self._keyboard is None:
            time.sleep(max(wait_s, 0.0))
            return []
        typed = self._typed(wait_s)
        if typed.endswith(b"\x1b"):
            typed += self._typed(_REST_S)
        return named(typed)

    def __enter__(self) -> Self:
        self._handlers = {one: signal.signal(one, self._note) for one in (*_ENDS, signal.SIGTSTP)}
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()
        for one, handler in self._handlers.items():
            signal.signal(one, handler)

    def _typed(self, wait_s: float) -> bytes:
        assert self._keyboard is not None
        ready, _, _ = select.select([self._keyboard], [], [], max(wait_s, 0.0))
        if not ready:
            return b""
        typed = b""
        with contextlib.suppress(OSError):
            typed = os.read(self._keyboard, _BYTES_MAX)
        if not typed:  # the keyboard went away
            self._keyboard = None
        return typed

    def _take(self) -> None:
        if self._keyboard is not None:
            self._kept = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that hung up needs nothing back
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        if self._kept is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._kept)

    def _stop(self) -> None:
        self._stopped = False
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell continues us
        self._take()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGTSTP:
            self._stopped = True
        else:
            self.ended_by = number
