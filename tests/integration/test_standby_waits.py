"""A commit that was to wait for a standby, and was kept from it, is not taken for done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from kit import comes_true

from config.settings import Postgres
from deploy.embedded.cluster import Cluster
from tests.factories import owner
from workers.store import journal
from workers.store.migrate import migrate
from workers.store.pool import AUDITOR, PRODUCER, WORKER, Bounds, connect, opener

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("standby") / "data"
    with Cluster(folder, servers_only=True) as cluster:
        migrate(cluster.dsn)
        with owner(cluster.dsn) as admin:
            admin.execute("CREATE TABLE public.noted (id int)")
            admin.execute("GRANT ALL ON public.noted TO PUBLIC")
        yield cluster.dsn


@pytest.fixture
def admin(server: str) -> Iterator[psycopg.Connection[Any]]:
    """Every commit waits for a standby that is not there; one that writes nothing does not."""
    with owner(server) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
        assert comes_true(
            lambda: connection.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",)
        )
        assert comes_true(lambda: commit_waits(server, connection))
        yield connection
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        connection.execute("SELECT pg_reload_conf()")


class Attempt:
    """Something that may wait, done in a thread of its own."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.result: object = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._act()
        except BaseException as error:
            self.error = error

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def commit_waits(server: str, admin: psycopg.Connection[Any]) -> bool:
    """Whether a commit waits now: others know of the setting when the checkpointer has read it."""
    with closing(connect(server, WORKER, Bounds(), name="test")) as writer:
        attempt = Attempt(lambda: writer.execute("INSERT INTO public.noted VALUES (0)"))
        waited = False
        while attempt.goes_on:
            waited |= admin.execute(CANCEL).fetchone() is not None
        return waited


def cancelled(admin: psycopg.Connection[Any], attempt: Attempt) -> Attempt:
    assert comes_true(lambda: admin.execute(WAITING).fetchone() is not None)
    admin.execute(CANCEL)
    attempt.end()
    return attempt


def test_a_commit_whose_wait_was_cancelled_raises_and_leaves_its_connection(
    server: str, admin: psycopg.Connection[Any]
) -> None:
    """The server has committed it, and answers as ever: only its warning tells."""
    writer = connect(server, WORKER, Bounds(), name="test")
    write = "INSERT INTO public.noted VALUES (1)"
    attempt = cancelled(admin, Attempt(lambda: writer.execute(write)))
    assert isinstance(attempt.error, psycopg.OperationalError)
    assert writer.closed
    assert admin.execute("SELECT count(*) FROM public.noted WHERE id = 1").fetchone() == (1,)


def test_the_same_holds_for_the_commit_of_a_transaction(
    server: str, admin: psycopg.Connection[Any]
) -> None:
    writer = connect(server, WORKER, Bounds(), name="test", autocommit=False)
    writer.execute("INSERT INTO public.noted VALUES (2)")
    attempt = cancelled(admin, Attempt(writer.commit))
    assert isinstance(attempt.error, psycopg.OperationalError)
    assert writer.closed


@pytest.mark.parametrize("role", [PRODUCER, WORKER])
def test_who_tells_others_what_they_read_waits_with_the_opening(
    server: str, admin: psycopg.Connection[Any], role: str
) -> None:
    """What a restarted server shows may be unknown to its standby."""
    attempt = cancelled(admin, Attempt(opener(Postgres(dsn=server), role, "test")))
    assert isinstance(attempt.error, psycopg.OperationalError)


def test_a_known_key_is_told_no_sooner_than_the_standby_knows_it(
    server: str, admin: psycopg.Connection[Any]
) -> None:
    """An unknown one is at once: nothing is promised by it."""
    reader = connect(server, PRODUCER, Bounds(), name="test")
    known, unknown = uuid4(), uuid4()
    admin.execute("SET synchronous_commit = local")
    admin.execute(
        "INSERT INTO tidegate.idempotency_keys (digest, intent_id, fingerprint) VALUES (%s, %s, %s)",
        (known, uuid4(), uuid4()),
    )
    assert journal.find_keys(reader, [unknown.bytes]) == {}
    attempt = cancelled(admin, Attempt(lambda: journal.find_keys(reader, [known.bytes])))
    assert isinstance(attempt.error, psycopg.OperationalError)


def test_who_only_watches_does_not(server: str, admin: psycopg.Connection[Any]) -> None:
    with closing(opener(Postgres(dsn=server), AUDITOR, "test")()) as watcher:
        assert watcher.execute("SELECT 1").fetchone() == (1,)


def test_where_no_commit_waits_nothing_is_written_at_the_opening(server: str) -> None:
    with owner(server) as connection:
        before = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        opener(Postgres(dsn=server), WORKER, "test")().close()
        after = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert before == after
