"""What is said again and again is said a few times, and then counted.

A dependency that is away, or a caller who sends rubbish as fast as he can, would otherwise write the
log full of one sentence, and make the rest of it hard to find.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

COUNT_MAX: Final = 10  # of the same, within a window
WINDOW_S: Final = 10.0
KEYS_MAX: Final = 500  # different ones at a time; all beyond share one count

Key = tuple[str, ...]

BEYOND: Final[Key] = ("", "many different events")


class _Window:
    __slots__ = ("ends_at", "left_out", "said")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.said = 0
        self.left_out = 0


class Repetition:
    """Lets the first `count_max` of the same through in each window, and counts the rest.

    Of bounded size, and for any number of threads.
    """

    def __init__(
        self,
        count_max: int = COUNT_MAX,
        window_s: float = WINDOW_S,
        keys_max: int = KEYS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count_max = count_max
        self._window_s = window_s
        self._keys_max = keys_max
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: what was counted is its parent's to tell."""
        self._lock = threading.RLock()  # a signal's handler may log in the midst of a line
        self._windows: dict[Key, _Window] = {}
        self._over: list[tuple[Key, int]] = []
        self._due_at = float("inf")  # when there is first something to tell

    def admit(self, key: Key, count_max: int | None = None) -> bool:
        """Say whether this one may be told; `count_max`: so many of this key instead of the usual."""
        now = self._clock()
        with self._lock:
            window = self._windows.get(key)
            if window is None or window.ends_at <= now:
                window = self._open(key, now)
            if window.said < (count_max or self._count_max):
                window.said += 1
                return True
            window.left_out += 1
            if window.ends_at < self._due_at:
                self._due_at = window.ends_at
            return False

    def ended(self, *, now_all: bool = False) -> list[tuple[Key, int]]:
        """Return what was left out in windows that are over, each once; with `now_all`, in all."""
        now = float("inf") if now_all else self._clock()
        if now < self._due_at:
            return []
        with self._lock:
            self._sweep(now)
            over, self._over = self._over, []
            waiting = (window.ends_at for window in self._windows.values() if window.left_out)
            self._due_at = min(waiting, default=float("inf"))
            return over

    def _open(self, key: Key, now: float) -> _Window:
        before = self._windows.pop(key, None)
        if before is not None:
            self._note(key, before)
        elif len(self._windows) >= self._keys_max:
            self._sweep(now)
            if len(self._windows) >= self._keys_max:
                key = BEYOND
        window = self._windows.get(key)
        if window is None or window.ends_at <= now:
            if window is not None:
                self._note(key, window)
            window = self._windows[key] = _Window(now + self._window_s)
        return window

    def _sweep(self, now: float) -> None:
        for key, window in list(self._windows.items()):
            if window.ends_at <= now:
                del self._windows[key]
                self._note(key, window)

    def _note(self, key: Key, window: _Window) -> None:
        if window.left_out:
            self._over.append((key, window.left_out))
            self._due_at = 0.0
