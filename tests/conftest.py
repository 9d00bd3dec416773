"""Servers for tests: real ones, started once per run and only when a test asks for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import hypothesis
import psycopg
import pytest
import redis
import structlog
from psycopg import sql

from deploy.embedded.cluster import Cluster
from tests import programs
from workers.store.migrate import migrate

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

_TEMPLATE = "tidegate_template"
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Take the variable away where tests run; who starts others to run them hands it on."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        programs.forget_variable()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Give the next test structlog as it would have had it alone."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], str]:
    """Find a program that is no Python package, or skip, or fail where all must be there."""
    return lambda name, package: programs.find(package, name)


@pytest.fixture(scope="session")
def servers() -> Iterator[Cluster]:
    """PostgreSQL and Valkey in a temporary folder, for the whole run."""
    with Cluster(servers_only=True) as cluster:
        # Tests kill processes, never the machine: what was written is there without a sync.
        _run(cluster, sql.SQL("ALTER SYSTEM SET fsync = off").format())
        _run(cluster, sql.SQL("SELECT pg_reload_conf()").format())
        yield cluster


@pytest.fixture(scope="session")
def migrated_template(servers: Cluster) -> str:
    """Name of a migrated database that nobody connects to, to be copied."""
    _run(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    migrate(_dsn(servers, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def dsn(servers: Cluster, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database of this test alone."""
    name = f"test_{next(_numbers)}"
    database, template = sql.Identifier(name), sql.Identifier(migrated_template)
    # Without syncs, copying files is four times as fast as logging their pages.
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    _run(servers, copy.format(database, template))
    yield _dsn(servers, name)
    _run(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def empty_dsn(servers: Cluster) -> Iterator[str]:
    """A fresh database without any migration."""
    name = f"test_{next(_numbers)}"
    database = sql.Identifier(name)
    _run(servers, sql.SQL("CREATE DATABASE {}").format(database))
    yield _dsn(servers, name)
    _run(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def valkey_url(servers: Cluster) -> str:
    """An empty Valkey: no keys, no functions."""
    with redis.Redis.from_url(servers.valkey_url) as client:
        client.flushall()
        client.function_flush()
    return servers.valkey_url


def _dsn(servers: Cluster, database: str) -> str:
    return servers.dsn.rpartition("/")[0] + f"/{database}"


def _run(servers: Cluster, statement: sql.Composed) -> None:
    with psycopg.connect(_dsn(servers, "postgres"), autocommit=True) as connection:
        connection.execute(statement)
