"""The supervisor: what ends is started again, what stops is drained, and pids are told."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

import pytest

from deploy.embedded import process
from deploy.embedded.child import Child
from deploy.embedded.cluster import Cluster
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import DataFolder
from deploy.embedded.supervisor import Processes, Supervisor

WAIT_S = 10
SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)
PARENT = (
    "import os, time\n"
    "for _ in range(2):\n"
    "    if os.fork() == 0:\n"
    "        time.sleep(600)\n"
    "time.sleep(600)\n"
)
FORKING = (
    "import os, time\n"
    "while True:\n"
    "    if (fork := os.fork()) == 0:\n"
    "        time.sleep(0.2)\n"
    "        os._exit(0)\n"
    "    os.waitpid(fork, 0)\n"
)


@dataclass
class Watched:
    """A supervisor and what it told."""

    supervisor: Supervisor
    logs: Path
    changes: list[Processes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def start(self, name: str, code: str, **more: object) -> None:
        """Start a child that runs Python code."""
        self.supervisor.start([self.child(name, code, **more)])

    def child(self, name: str, code: str, **more: object) -> Child:
        """Describe a child that runs Python code."""
        given = {"role": name, **more}
        return Child(
            name=name,
            program=(sys.executable, "-c", code),
            environ=os.environ,
            folder=Path("/"),
            **given,  # type: ignore[arg-type]
        )

    def pids(self, role: str) -> list[int]:
        """Return who runs under a role."""
        return self.supervisor.processes().get(role, [])

    def said(self, name: str, text: str) -> bool:
        """Tell whether a child's log holds a text."""
        return text in (self.logs / f"{name}.log").read_text()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A supervisor that is closed at the end."""
    changes: list[Processes] = []
    events: list[str] = []
    supervisor = Supervisor(tmp_path, changes.append, events.append)
    yield Watched(supervisor, tmp_path, changes, events)
    supervisor.close()


def came(fact: Callable[[], bool]) -> bool:
    """Wait for a fact."""
    return process.until(fact, WAIT_S)


def test_a_child_that_is_killed_is_started_again_and_the_change_is_told(watched: Watched) -> None:
    """Whoever reads the endpoints finds the new pid."""
    watched.start("worker-1", SLEEPER, role="worker")
    (before,) = watched.pids("worker")
    os.kill(before, Signals.SIGKILL)
    assert came(lambda: watched.pids("worker") not in ([before], []))
    (after,) = watched.pids("worker")
    assert came(lambda: watched.changes[-1] == {"worker": [after]})
    assert watched.events == ["worker-1 was killed by SIGKILL; started again in 0.1 s"]


def test_a_child_that_fails_again_and_again_is_started_ever_less_often(watched: Watched) -> None:
    """A process that cannot run must not eat the machine."""
    watched.start("api", "import time; time.sleep(0.1); raise SystemExit(3)")
    assert came(lambda: len(watched.events) == 3)
    assert [event.split("; ")[1] for event in watched.events] == [
        f"started again in {delay} s" for delay in ("0.1", "0.2", "0.4")
    ]
    assert "ended with code 3" in watched.events[0]


def test_forks_of_a_child_are_listed_and_end_with_it(watched: Watched) -> None:
    """A chaos test kills them one by one; none outlives the process it belongs to."""
    watched.start("worker-1", PARENT, role="worker", forks_role="worker-child")
    assert came(lambda: len(watched.pids("worker-child")) == 2)
    forks = [process.identify(pid) for pid in watched.pids("worker-child")]
    os.kill(watched.pids("worker")[0], Signals.SIGKILL)
    assert process.await_end([fork for fork in forks if fork], WAIT_S) == []


def test_a_fork_that_is_replaced_is_told(watched: Watched) -> None:
    """A pool starts a child for each that dies; its pid changes without a restart of ours."""
    watched.start("worker-1", PARENT, role="worker", forks_role="worker-child")
    assert came(lambda: len(watched.pids("worker-child")) == 2)
    first, second = watched.pids("worker-child")
    os.kill(first, Signals.SIGKILL)
    assert came(lambda: watched.changes[-1].get("worker-child") == [second])


def test_who_does_not_come_up_is_shown_with_the_end_of_its_log(watched: Watched) -> None:
    """The reason is in front of the reader, not in a file to be found."""
    with pytest.raises(EmbeddedError, match=r"(?s)api ended while starting.*no such table"):
        watched.start("api", "raise SystemExit('no such table')", ready=lambda: False)
    assert watched.pids("api") == []


def test_who_is_not_ready_in_time_is_stopped(watched: Watched) -> None:
    """Waiting has a bound."""
    with pytest.raises(EmbeddedError, match="was not ready in time"):
        watched.start("api", SLEEPER, ready=lambda: False, ready_timeout_s=0.3)
    assert watched.pids("api") == []


def test_roles_are_stopped_in_the_order_given(watched: Watched) -> None:
    """The intake first, what the others need last."""
    for role in ("postgres", "api", "worker"):
        watched.start(role, SLEEPER)
    assert came(lambda: len(watched.changes[-1]) == 3)
    watched.supervisor.stop_all([["api"], ["worker"], ["postgres"]])
    assert came(lambda: watched.changes[-1] == {})
    sizes = [sorted(change) for change in watched.changes[-3:-1]]
    assert sizes == [["postgres", "worker"], ["postgres"]]


def test_who_does_not_stop_in_time_is_killed(watched: Watched) -> None:
    """A drain has a bound."""
    watched.start("api", STUBBORN, stop_timeout_s=0.3)
    assert came(lambda: watched.said("api", "deaf"))
    watched.supervisor.stop(["api"])
    assert watched.pids("api") == []
    assert watched.events == ["api did not stop in time and was killed"]


def test_a_stop_can_be_hastened(watched: Watched) -> None:
    """The second Ctrl-C: the first one's patience is over."""
    watched.start("api", STUBBORN, stop_timeout_s=60)
    assert came(lambda: watched.said("api", "deaf"))
    watched.supervisor.hasten()
    began = time.monotonic()
    watched.supervisor.stop(["api"])
    assert time.monotonic() - began < 5


def test_in_haste_all_are_stopped_together(watched: Watched) -> None:
    """Each role in its turn would take as many seconds as there are roles."""
    roles = ("api", "worker", "postgres")
    for role in roles:
        watched.start(role, STUBBORN, stop_timeout_s=60)
        assert came(lambda role=role: watched.said(role, "deaf"))
    watched.supervisor.hasten()
    began = time.monotonic()
    watched.supervisor.stop_all([[role] for role in roles])
    assert time.monotonic() - began < 2.5
    assert watched.supervisor.processes() == {}


def test_what_interrupts_a_stop_leaves_nothing_running(watched: Watched, tmp_path: Path) -> None:
    """A second Ctrl-C, in the midst of what the first one began."""
    watched.start("api", STUBBORN, stop_timeout_s=60)
    assert came(lambda: watched.said("api", "deaf"))
    alive = process.identify(watched.pids("api")[0])
    assert alive is not None
    cluster = Cluster(tmp_path / "data")
    cluster._folder = DataFolder(tmp_path / "data")
    cluster._supervisor = watched.supervisor

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster.stop()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert process.await_end([alive], 0) == []
    DataFolder(tmp_path / "data").close()  # nobody holds it any more


def test_who_cannot_be_told_of_events_does_not_end_what_is_kept(tmp_path: Path) -> None:
    """`tidegate chaos | head`: the reader of our output is gone."""

    def gone(event: str) -> None:
        raise BrokenPipeError(event)

    supervisor = Supervisor(tmp_path, on_event=gone)
    watched = Watched(supervisor, tmp_path)
    watched.start("worker-1", STUBBORN, role="worker", stop_timeout_s=0.2)
    assert came(lambda: watched.said("worker-1", "deaf"))
    (before,) = watched.pids("worker")
    os.kill(before, Signals.SIGKILL)
    assert came(lambda: watched.pids("worker") not in ([before], []))
    began = time.monotonic()
    supervisor.close()
    assert time.monotonic() - began < 5


def test_what_a_caller_has_told_and_what_we_tell_come_one_at_a_time(tmp_path: Path) -> None:
    """With a lock of its own, and ours for who runs, the listener could wait for us for ever."""
    telling = threading.Lock()
    crossed: list[Processes] = []

    def hear(running: Processes) -> None:
        if not telling.acquire(blocking=False):
            crossed.append(running)
            return
        time.sleep(0.01)
        assert supervisor.processes() == running
        telling.release()

    supervisor = Supervisor(tmp_path, hear)
    Watched(supervisor, tmp_path).start("worker-1", FORKING, forks_role="worker-child")
    for _ in range(100):
        supervisor.tell()
    supervisor.close()
    assert crossed == []


def test_a_child_that_is_stopped_stays_stopped(watched: Watched) -> None:
    """Its end was wanted."""
    watched.start("api", SLEEPER)
    watched.supervisor.stop(["api"])
    time.sleep(0.3)
    assert watched.pids("api") == []
    assert watched.events == []
