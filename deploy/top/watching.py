"""Watching: a thread for each source, so that one that hangs delays nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Final, Self

from deploy.top.reading import Seen, heard, missed, read
from deploy.top.sources import Source, SourceError, fetch

WINDOW_S: Final = 5.0  # rates are of this long, or of two readings where those are further apart
_STALE_READINGS: Final = 3  # a value is shown for so many intervals after its source fell silent
_GLANCE_S: Final = 0.2  # how long a changed interval or an end may take to be noticed

Call = Callable[[Source], bytes]


class Watch:
    """Asks every source once an interval; a context manager."""

    def __init__(self, sources: Sequence[Source], interval_s: float, call: Call = fetch) -> None:
        """Nothing is asked before the context is entered."""
        self._seen = {source: Seen(source=source) for source in sources}
        self._call = call
        self._news = threading.Condition()
        self._ended = threading.Event()
        self.interval_s = interval_s  # may be changed at any time

    @property
    def window_s(self) -> float:
        """How long the span is over which rates are taken."""
        return max(WINDOW_S, 1.5 * self.interval_s)

    @property
    def stale_s(self) -> float:
        """From which age on a value is not shown any more."""
        return max(WINDOW_S, _STALE_READINGS * self.interval_s)

    def seen(self) -> list[Seen]:
        """Return every source as it is known now."""
        with self._news:
            return list(self._seen.values())

    def wait_for(self, enough: Callable[[Seen], bool], timeout_s: float) -> None:
        """Return when `enough` is true of every source, or the time is over."""
        with self._news:
            self._news.wait_for(lambda: all(map(enough, self._seen.values())), timeout_s)

    def __enter__(self) -> Self:
        for source in self._seen:
            # Daemons: a look-up of a name has no time-out, and must not hold up the end.
            threading.Thread(target=self._follow, args=(source,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _follow(self, source: Source) -> None:
        while not self._ended.is_set():
            begun_s = monotonic()
            self._ask(source)
            while not self._ended.is_set():
                left_s = begun_s + self.interval_s - monotonic()
                if left_s <= 0:
                    break
                self._ended.wait(min(left_s, _GLANCE_S))

    def _ask(self, source: Source) -> None:
        why, reading = "", None
        try:
            body = self._call(source)
            reading = read(source, body, monotonic())
        except SourceError as error:
            why = str(error)
        except Exception as error:  # whatever a source does, it is shown as away, and asked again
            why = f"{type(error).__name__}: {error}"
        with self._news:
            before = self._seen[source]
            self._seen[source] = (
                missed(before, why) if reading is None else heard(before, reading, self.window_s)
            )
            self._news.notify_all()
