"""The driver of a chaos run ends when it is closed, whatever it was asked at that moment."""

from __future__ import annotations

import gc
import signal
import socket
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from deploy.chaos.driver import Driver
from deploy.chaos.history import History
from deploy.chaos.workload import everyday
from deploy.load.wire import target

RATE = 50.0  # intents a second
NEVER_TOLD = 40


def test_ctrl_c_in_the_last_questions_ends_them_with_everything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They ask a server that never answers, some for the first time and some again."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    with (
        closing(socket.create_server(("127.0.0.1", 0), backlog=500)) as silent,
        closing(History(tmp_path / "history.jsonl")) as history,
    ):
        to = target(f"http://127.0.0.1:{silent.getsockname()[1]}", "key")
        driver = Driver(to, everyday("c", (), 1), history, RATE, 1)
        promised = islice(everyday("d", (), 1), NEVER_TOLD)
        driver.receipts = {wish.key: (f"i-{wish.key}", wish) for wish in promised}
        driver.start()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                driver.ask_for_all()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, earlier)
        began = time.monotonic()
        driver.close()
        assert time.monotonic() - began < 2
        assert history.counts["post", "invoke"] > 0
        assert history.counts["poll", "invoke"] > 0
    del driver
    gc.collect()
    assert caplog.text == ""
