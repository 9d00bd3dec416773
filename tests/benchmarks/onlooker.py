"""Somebody who looks on while a benchmark goes: a thread that looks now and then, until it is left."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Self


class Onlooker(ABC):
    """Looks at once and every `every_s` seconds from then on; a context manager."""

    def __init__(self, name: str, every_s: float) -> None:
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name=name, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Look once, in the thread."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self.look()
            due = max(due + self._every_s, time.monotonic())
