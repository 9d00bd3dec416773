"""The life and death of a cluster: what a signal does to it, and what the next start finds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from deploy.embedded import process
from deploy.embedded.cluster import Cluster
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import DataFolder
from tests.integration import embedded_kit as kit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was used before, for the tests of this module one after the other."""
    folder = tmp_path_factory.mktemp("life") / "data"
    with Cluster(folder, servers_only=True):
        return folder


def test_ctrl_c_ends_everything_and_removes_the_temporary_folder(tmp_path: Path) -> None:
    """What nobody asked to keep is not kept."""
    life = subprocess.Popen(
        kit.command(None), env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True
    )
    try:
        made = kit.temporary_data(tmp_path)
        assert kit.both_answer(kit.found(made))
        life.send_signal(signal.SIGINT)
        assert life.wait(kit.END_TIMEOUT_S) == 0
    finally:
        life.kill()
    assert kit.nothing_runs_on(made)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_service_manager_and_a_closed_terminal_stop_it_as_well(
    data: Path, number: signal.Signals
) -> None:
    """A folder that was named is kept, but for the addresses that are good no more."""
    with kit.running(data) as life:
        life.send_signal(number)
        assert life.wait(kit.END_TIMEOUT_S) == 0
    assert kit.nothing_runs_on(data)
    assert kit.endpoints_of(data) is None


def test_data_outlives_a_stop_and_the_addresses_with_it(data: Path) -> None:
    """The same data answers at the same address to the same password."""
    with Cluster(data, servers_only=True) as first, psycopg.connect(first.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        connection.commit()
        before = first.endpoints()
    assert kit.endpoints_of(data) is None
    with Cluster(data, servers_only=True) as second, psycopg.connect(second.dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
        after = second.endpoints()
    assert (before.postgres, before.valkey) == (after.postgres, after.valkey)


def test_a_supervisor_that_is_killed_leaves_nothing_and_its_data_starts_again(
    data: Path,
) -> None:
    """SIGKILL lets nobody clean up; the kernel ends the servers, the log has every commit."""
    with kit.running(data) as life:
        with psycopg.connect(kit.found(data).postgres) as connection:
            connection.execute("CREATE TABLE kept_too AS SELECT 7 AS n")
        life.kill()
        life.wait()
        assert kit.nothing_runs_on(data)
    with Cluster(data, servers_only=True) as again, psycopg.connect(again.dsn) as connection:
        assert connection.execute("SELECT n FROM kept_too").fetchall() == [(7,)]


def test_a_killed_server_is_started_again_at_its_address(data: Path) -> None:
    """Clients reconnect; nobody needs to be told a new port."""
    with Cluster(data, servers_only=True) as cluster:
        before = cluster.endpoints()
        for role in ("postgres", "valkey"):
            os.kill(before.processes[role][0], signal.SIGKILL)
        assert process.until(lambda: _answers(cluster), kit.START_TIMEOUT_S)
        assert cluster.endpoints().processes != before.processes
        written = kit.found(cluster.data)
        assert process.until(
            lambda: kit.found(cluster.data).processes == cluster.processes(), kit.END_TIMEOUT_S
        )
        assert (written.postgres, written.valkey) == (before.postgres, before.valkey)


def test_what_an_earlier_start_left_running_is_ended_first(data: Path) -> None:
    """Where the kernel did not end it, as in a supervisor that was started by another thread."""
    leftover = subprocess.Popen(
        ["/bin/sleep", "600"], env={process.MARKER: str(data)}, start_new_session=True
    )
    stranger = subprocess.Popen(["/bin/sleep", "600"], cwd=data, start_new_session=True)
    told: list[str] = []
    try:
        with Cluster(data, servers_only=True, on_event=told.append):
            assert leftover.wait(kit.END_TIMEOUT_S) != 0
            assert stranger.poll() is None
        assert told == [f"ended process {leftover.pid}, left by an earlier start on this data"]
    finally:
        for life in (leftover, stranger):
            life.kill()
            life.wait()


def test_a_pid_file_that_names_a_stranger_does_not_stop_postgres(data: Path) -> None:
    """After a power cut the pid in it may be anybody's, even another program's of the same user."""
    stale = data / "postgres" / "data" / "postmaster.pid"
    owner = stale.parent.stat()
    stranger = subprocess.Popen(["/bin/sleep", "600"], user=owner.st_uid)
    try:
        stale.write_text(
            f"{stranger.pid}\n{stale.parent}\n{int(time.time())}\n1\n\n127.0.0.1\n1 1\n"
        )
        os.chown(stale, owner.st_uid, owner.st_gid)
        with Cluster(data, servers_only=True) as cluster:
            assert kit.both_answer(cluster.endpoints())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_supervisors_never_share_a_folder(tmp_path: Path) -> None:
    """The second is told who the first is."""
    first = DataFolder(tmp_path / "data")
    try:
        with pytest.raises(EmbeddedError, match=rf"in use by another cluster \(pid {os.getpid()}"):
            DataFolder(tmp_path / "data")
    finally:
        first.close()
    DataFolder(tmp_path / "data").close()


def test_the_temporary_folder_of_a_killed_supervisor_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows its name any more, and it holds hundreds of megabytes."""
    abandon = (
        "import os; from deploy.embedded.folder import DataFolder; DataFolder(None); os.abort()"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", abandon], env=environ, check=False, timeout=30)
    assert len(list(tmp_path.glob("tidegate-*"))) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = DataFolder(None)
    assert list(tmp_path.iterdir()) == [mine.path]
    other = DataFolder(None)
    assert mine.path.exists()
    other.close()
    mine.close()
    assert list(tmp_path.iterdir()) == []


def _answers(cluster: Cluster) -> bool:
    with contextlib.suppress(psycopg.OperationalError, redis.RedisError):
        return kit.both_answer(cluster.endpoints())
    return False
