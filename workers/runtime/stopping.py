"""How a process of a loop hears that it shall end."""

from __future__ import annotations

import signal
import threading


def told_to_stop() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets; call it in the main thread, before the work."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
