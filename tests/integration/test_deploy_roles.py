"""Logins as DEPLOY.md has them: an owner who is no superuser, processes that own nothing, a pooler."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import psycopg
import pytest
from kit import World, order

from config.settings import Postgres, Settings
from deploy.cli import examine
from deploy.cli.finding import Status
from deploy.embedded import launching, process
from deploy.embedded.cluster import Cluster
from deploy.embedded.ports import free_port
from deploy.embedded.postgres import _program
from tests.deploy_files import DEPLOY
from workers.store import audit
from workers.store.migrate import migrate
from workers.store.pool import AUDITOR, OPERATOR, PRODUCER, WORKER, Bounds, connect

GUIDE = (DEPLOY / "DEPLOY.md").read_text()
PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

pooled = pytest.mark.skipif(
    not Path(PGBOUNCER).exists(),
    reason="PgBouncer is not installed here (apt-get install pgbouncer)",
)


def block(kind: str) -> str:
    """The one block of a kind in the guide."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Cluster]:
    """Servers that know no role of ours."""
    with Cluster(servers_only=True) as cluster:
        yield cluster


def dsn_of(cluster: Cluster, login: str, port: int | None = None) -> str:
    """Where a login, whose password is its name, finds the database."""
    place = cluster.dsn.partition("@")[2].partition("/")[0]
    host, _, own = place.partition(":")
    return f"postgresql://{login}:{login}@{host}:{port or own}/shop"


@pytest.fixture(scope="module")
def owner_dsn(fresh: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated database, as somebody makes it who is given no superuser."""
    with psycopg.connect(fresh.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE shop_owner LOGIN CREATEROLE PASSWORD 'shop_owner'")
        connection.execute("CREATE DATABASE shop OWNER shop_owner")
    dsn = dsn_of(fresh, "shop_owner")
    password = tmp_path_factory.mktemp("secrets") / "app_password"
    for word in ("first", "tidegate_app"):  # run again, it changes the password
        password.write_text(word + "\n")
        run_roles(dsn, password)
    migrate(dsn)
    return dsn


def run_roles(dsn: str, password: Path) -> None:
    subprocess.run(
        [str(_program("psql")), "--no-psqlrc", "--quiet", "--file", "roles.sql", dsn],
        cwd=DEPLOY,
        env={"APP_PASSWORD_FILE": str(password), "PATH": "/usr/bin:/bin"},
        timeout=30,
        check=True,
    )


def test_an_owner_without_superuser_can_migrate_audit_and_examine(owner_dsn: str) -> None:
    assert audit.run(owner_dsn).clean
    findings = examine.postgres(Settings(postgres=Postgres(dsn=owner_dsn)))
    assert [one for one in findings if one.status is not Status.FINE] == []


def test_the_processes_login_takes_its_roles_and_no_other(fresh: Cluster, owner_dsn: str) -> None:
    app = dsn_of(fresh, "tidegate_app")
    for role in (PRODUCER, WORKER, AUDITOR, OPERATOR):
        with connect(app, role, Bounds(), name="test") as connection:
            assert connection.execute("SELECT current_user").fetchall() == [(role,)]
    for role in ("shop_owner", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied to set role"):
            connect(app, role, Bounds(), name="test")


@contextmanager
def bouncing(cluster: Cluster, folder: Path, lines: str) -> Iterator[int]:
    """Run PgBouncer with these lines of configuration; yields its port."""
    port = free_port()
    target = dsn_of(cluster, "tidegate_app").partition("@")[2].partition("/")[0]
    host, _, own = target.partition(":")
    (folder / "users.txt").write_text('"tidegate_app" "tidegate_app"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\nshop = host={host} port={own} dbname=shop\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = scram-sha-256\nauth_file = users.txt\nlogfile = pgbouncer.log\n"
        f"default_pool_size = 10\n{lines}\n"
    )
    run_as = launching.ordinary_user([PGBOUNCER, "--version"], folder)
    line = launching.command([PGBOUNCER, "pgbouncer.ini"], folder, SIGKILL, run_as)
    life = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert process.until(lambda: _listens(port) or life.poll() is not None, 20)
        assert life.poll() is None, (folder / "pgbouncer.log").read_text()
        yield port
    finally:
        life.terminate()
        life.wait(20)


def _listens(port: int) -> bool:
    try:
        psycopg.connect(
            host="127.0.0.1", port=port, user="nobody", dbname="none", connect_timeout=2
        )
    except psycopg.OperationalError as error:
        return "refused" not in str(error)
    return True


@pooled
def test_without_being_told_a_pooler_refuses_what_a_session_is_made_of(
    fresh: Cluster, owner_dsn: str, tmp_path: Path
) -> None:
    with bouncing(fresh, tmp_path, "pool_mode = session") as port:
        app = dsn_of(fresh, "tidegate_app", port)
        with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
            connect(app, WORKER, Bounds(), name="test")


@pooled
def test_orders_pass_a_pooler_in_session_mode_set_up_as_printed(
    fresh: Cluster, owner_dsn: str, tmp_path: Path
) -> None:
    """The guide's own lines; an order is journalled and decided by way of it."""
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        owner.execute(block("sql").encode())
    with (
        bouncing(fresh, tmp_path, block("ini")) as port,
        World(owner_dsn, fresh.valkey_url) as world,
    ):
        app = dsn_of(fresh, "tidegate_app", port)
        world.campaign()
        batch = [order(f"u-{n}") for n in range(3)]
        world.intake(dsn=app).submit(batch)
        world.processor(dsn=app).run([posted.intent_id for posted in batch])
        assert world.reasons() == {"committed": 3}
        with connect(app, WORKER, Bounds(), name="test") as connection:
            (bound,) = connection.execute("SHOW statement_timeout").fetchall()
        assert bound == ("5s",)


@pooled
def test_in_transaction_mode_one_session_would_weaken_anothers_commits(
    fresh: Cluster, owner_dsn: str, tmp_path: Path
) -> None:
    """Why the guide says never: what a worker sets for its records, the journal would commit by."""
    lines = block("ini").replace("pool_mode = session", "pool_mode = transaction")
    with bouncing(fresh, tmp_path, lines) as port:
        app = dsn_of(fresh, "tidegate_app", port)
        with (
            connect(app, WORKER, Bounds(), name="records") as records,
            connect(app, PRODUCER, Bounds(), name="journal") as journal,
        ):
            records.execute("SET synchronous_commit = off")
            assert journal.execute("SHOW synchronous_commit").fetchall() == [("off",)]
