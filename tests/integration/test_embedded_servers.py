"""The embedded servers: durable, bounded to this machine, and as any user from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from signal import Signals

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.embedded import launching, ports
from deploy.embedded.cluster import Cluster
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import DataFolder
from deploy.embedded.ports import free_port, is_free
from tests.integration import embedded_kit as kit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def private_home(tmp_path: Path) -> Path:
    """A folder below one that only its owner may pass."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    below = home / "below"
    below.mkdir()
    return below


def test_postgres_keeps_what_it_committed_and_listens_here_only(servers: Cluster) -> None:
    """The journal is the acceptance; and a development server is nobody else's business."""
    wanted = {
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "127.0.0.1",
        "wal_compression": "off",
        "shared_preload_libraries": "pg_stat_statements",
    }
    with psycopg.connect(servers.dsn) as connection:
        assert connection.info.server_version // 10_000 >= 15
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(wanted),)
        )
        assert dict(rows.fetchall()) == wanted
        assert "fsync = on" in (servers.data / "postgres/data/postgresql.conf").read_text()


def test_postgres_wants_the_password(servers: Cluster) -> None:
    """Other users of this machine reach the loopback interface too."""
    stranger = servers.dsn.replace(servers.dsn.split(":")[2].split("@")[0], "guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stranger)


def test_valkey_evicts_nothing_and_keeps_a_log(servers: Cluster) -> None:
    """Evicting a binding key would lose a whole queue."""
    with redis.Redis.from_url(servers.valkey_url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy", "append*") == {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "appendfilename": "appendonly.aof",
            "appenddirname": "appendonlydir",
        }
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_valkey_wants_the_password(servers: Cluster) -> None:
    """As PostgreSQL."""
    port = servers.valkey_url.rpartition(":")[2].partition("/")[0]
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=int(port), retry=once) as client:
        with pytest.raises(redis.AuthenticationError):
            client.ping()


def test_several_clusters_live_beside_each_other(servers: Cluster, tmp_path: Path) -> None:
    """Each has its ports, its passwords and its folder."""
    with Cluster(tmp_path / "data", servers_only=True) as other:
        assert other.dsn != servers.dsn
        assert other.valkey_url != servers.valkey_url
        assert kit.both_answer(other.endpoints())
    assert kit.both_answer(servers.endpoints())


def test_below_a_private_home_it_runs_and_changes_nothing_outside(private_home: Path) -> None:
    """PostgreSQL refuses to be root; whoever it is instead must reach data below root's home.

    Permissions of folders that are not ours, the checkout's among them, stay as they were.
    """
    binaries = Path(launching.__file__).resolve().parent
    before = kit.modes([private_home, binaries, Path(sys.prefix)])
    with Cluster(private_home / "data", servers_only=True) as cluster:
        assert kit.both_answer(cluster.endpoints())
        assert kit.modes([private_home, binaries, Path(sys.prefix)]) == before
    assert kit.modes([private_home, binaries, Path(sys.prefix)]) == before


@as_root
def test_binaries_below_a_private_home_can_be_run(private_home: Path) -> None:
    """A checkout in root's home has its virtual environment there too."""
    program = private_home / "program"
    shutil.copy("/bin/true", program)
    folder = private_home / "data"
    folder.mkdir(mode=0o700)
    run_as = launching.ordinary_user([str(program)], folder)
    assert run_as is not None
    assert run_as.uid != 0
    assert run_as.capabilities


@as_root
def test_an_ordinary_user_needs_no_power_where_the_way_is_open() -> None:
    """The least powerful way that works is taken."""
    folder = Path("/tmp") / f"tidegate-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        run_as = launching.ordinary_user(["/bin/true"], folder)
        assert run_as is not None
        assert run_as.capabilities == ()
    finally:
        folder.rmdir()


@as_root
def test_what_nobody_else_can_run_is_refused_with_the_mend(private_home: Path) -> None:
    """The reader learns what to do."""
    folder = private_home / "data"
    folder.mkdir()
    with pytest.raises(EmbeddedError, match="Run as an ordinary user"):
        launching.ordinary_user([str(private_home / "absent")], folder)


@as_root
def test_it_runs_as_an_ordinary_user(tmp_path: Path) -> None:
    """Neither root nor any helper of root's is needed."""
    data = tmp_path / "data"
    data.mkdir()
    # The interpreter may lie in root's home: then with the power to pass it, and no more.
    user = launching.ordinary_user([sys.executable, "-c", ""], data)
    assert user is not None
    line = launching.command(kit.command(data), data, Signals.SIGKILL, user)
    with kit.running(data, line, HOME=str(data), PYTHONPATH=os.pathsep.join(sys.path)):
        assert kit.both_answer(kit.found(data))
        assert {entry.stat().st_uid for entry in data.rglob("*")} == {user.uid}
    assert kit.nothing_runs_on(data)


def test_a_folder_of_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    """`--data ~` is a slip, not a wish."""
    (tmp_path / "letters.txt").touch()
    with pytest.raises(EmbeddedError, match="holds files that are not Tidegate's"):
        DataFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_free_port_is_no_port_of_outgoing_connections() -> None:
    """A server that is started again must find its port free."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()
    assert is_free(port)
    assert 10_000 <= port < first_ephemeral


def test_nobody_is_given_a_port_that_another_was_just_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server does not listen yet, so that only the one who chose it knows."""
    monkeypatch.setattr(ports, "_highest", lambda: 10_039)
    ours = [free_port() for _ in range(12)]
    asked = "from deploy.embedded import ports; ports._highest = lambda: 10_039\n"
    asked += "print(*(ports.free_port() for _ in range(12)))"
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    theirs = [int(port) for port in ran.stdout.split()]
    assert len({*ours, *theirs}) == 24
    assert free_port(ours[0]) == ours[0], "but who chose it may ask for it again"
    assert free_port(theirs[0]) == theirs[0], "and it is free when its chooser is gone"


def test_a_taken_port_is_refused_before_anything_starts(servers: Cluster, tmp_path: Path) -> None:
    """Two on one port would share the clients between them."""
    taken = int(servers.valkey_url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(EmbeddedError, match="is taken; give --port another"):
        Cluster(tmp_path / "data", port=taken).start()
    assert not (tmp_path / "data").exists()


def test_the_child_of_a_dead_parent_does_not_start() -> None:
    """The parent may die before its death can be noticed."""
    line = launching.command(["/bin/echo", "alive"], Path("/"), Signals.SIGKILL)
    line[line.index(str(os.getpid()))] = "1"
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=10)
    assert (ran.returncode, ran.stdout) == (126, "")
    assert "is gone" in ran.stderr
