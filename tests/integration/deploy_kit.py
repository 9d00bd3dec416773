"""What `deploy/` ships, run as plain processes: the image's build, and the services of compose.yaml.

There is no container engine where tests run. So the commands are the files' own, word for word, and
only what an engine would provide is put in their place: paths, host names, ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from deploy.embedded import launching, process
from deploy.embedded.ports import free_port
from deploy.embedded.postgres import PostgresServer
from deploy.embedded.valkey import _binary as valkey_server
from tests.deploy_files import (
    DEPLOY,
    ROOT,
    TOOLS,
    Context,
    Stage,
    compose,
    dockerfile_stages,
    make_secrets,
    seconds,
)

BUILD_TIMEOUT_S = 250
HEALTHY_WITHIN_S = 60
# What a resolver or a socket says where no package registry can be reached.
UNREACHABLE = ("dns error", "error sending request", "Connection refused", "timed out")


def own_environ() -> dict[str, str]:
    """This machine's variables without those of this environment and of any deployment."""
    ours = ("TIDEGATE_", "PYTHON", "UV_", "VIRTUAL_ENV", "PG", "MAKE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


# The image -----------------------------------------------------------------------------------------


@dataclass
class Image:
    """What the last stage of the Dockerfile would hold, somewhere on this disk."""

    root: Path
    stage: Stage

    @property
    def environ(self) -> dict[str, str]:
        """The variables that a container starts with, its paths being here."""
        known = {"PATH": f"{os.environ['PATH']}", **self.stage.environ}
        known["PATH"] = known["PATH"].replace("$PATH", os.environ["PATH"])
        return {name: at(self.root, value) for name, value in known.items()}

    def line(self, command: Sequence[str]) -> list[str]:
        """ENTRYPOINT with a command, its program looked up as a container would."""
        entry, *rest = [*self.stage.all("ENTRYPOINT")[0].exec_form, *command]
        return [self.find(entry), *rest]

    def find(self, program: str) -> str:
        found = shutil.which(program, path=self.environ["PATH"])
        assert found is not None, program
        return found


def at(root: Path, text: str) -> str:
    """Put the paths of a container under a root."""
    for path in ("/opt/tidegate", "/src", "/root/.cache"):
        text = text.replace(path, f"{root}{path}")
    return text


def build(root: Path) -> Image:
    """Run the build stage as the builder would: its COPY, its ENV, its RUN, in order."""
    stages = dockerfile_stages((DEPLOY / "Dockerfile").read_text())
    stage = next(one for one in stages if one.name == "build")
    environ = own_environ() | {
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
        "UV_PYTHON": getattr(sys, "_base_executable", sys.executable),
        "UV_SYSTEM_CERTS": "1",
        "UV_CACHE_DIR": str(root / "cache"),
    }
    folder = root
    for one in stage.instructions:
        if one.word == "ENV":
            environ |= {name: at(root, value) for name, value in stage.environ.items()}
        elif one.word == "WORKDIR":
            folder = Path(at(root, one.rest))
            folder.mkdir(parents=True)
        elif one.word == "COPY" and not one.rest.startswith("--from"):
            *sources, _ = one.rest.split()
            _copy(sources, folder)
        elif one.word == "RUN":
            _run(at(root, one.command), folder, environ)
    return Image(root, stages[-1])


def _copy(sources: Sequence[str], folder: Path) -> None:
    """Copy from the build context what .dockerignore lets through."""
    context = Context((ROOT / ".dockerignore").read_text())
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        wanted = sources == ["."] or name in sources
        if wanted and context.holds(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def _run(command: str, folder: Path, environ: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip("no package registry can be reached from here")
    assert done.returncode == 0, f"{command}\n{done.stderr}"


# compose.yaml --------------------------------------------------------------------------------------


@dataclass
class Running:
    """One replica of a service."""

    service: str
    environ: dict[str, str]
    ports: dict[str, str]
    log: Path
    life: subprocess.Popen[bytes]

    def tail(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-15:])


@dataclass
class Compose:
    """The services of compose.yaml as processes; `root` stands for all their file systems."""

    root: Path
    image: Image
    secrets: Path
    servers: dict[str, str]  # `host:port` of each server as containers see it, and as it is here
    tools: dict[str, str]  # variables with which programs of the servers' images run here
    services: dict[str, Any] = field(default_factory=lambda: compose()["services"])
    running: list[Running] = field(default_factory=list)

    def up(self, service: str) -> list[Running]:
        """Start every replica."""
        replicas = self.services[service]["deploy"].get("replicas", 1)
        started = [self._start(service, n) for n in range(1, replicas + 1)]
        self.running += started
        return started

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a service to its end, by another command than its own if one is given."""
        line = self.image.line(command or self.services[service]["command"])
        environ, _ = self._environ(service)
        return subprocess.run(
            line,
            env=environ,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def is_healthy(self, one: Running) -> bool:
        """Run the health check of a service, the very command, beside its process."""
        assert one.life.poll() is None, f"{one.service} ended:\n{one.tail()}"
        return self.check(one.service, one.ports, one.environ)

    def check(
        self, service: str, ports: Mapping[str, str], environ: Mapping[str, str] | None = None
    ) -> bool:
        """Run the health check of a service with its ports as they are here."""
        check = self.services[service]["healthcheck"]
        kind, *line = check["test"]
        line = ["sh", "-c", line[0]] if kind == "CMD-SHELL" else line
        for inside, here in ports.items():
            line = [word.replace(inside, here) for word in line]
        done = subprocess.run(
            line,
            env={**self.image.environ, **self.tools, **(environ or {})},
            capture_output=True,
            timeout=seconds(check["timeout"]),
            check=False,
        )
        return done.returncode == 0

    def down(self, service: str) -> list[int]:
        """Stop a service within its grace period; return the exit codes of its replicas."""
        grace_s = seconds(self.services[service]["stop_grace_period"])
        ours = [one for one in self.running if one.service == service]
        for one in ours:
            one.life.send_signal(signal.SIGTERM)
        return [one.life.wait(grace_s) for one in ours]

    def _start(self, service: str, number: int) -> Running:
        environ, ports = self._environ(service)
        log = self.root / f"{service}-{number}.log"
        with log.open("wb") as out:
            life = subprocess.Popen(
                self.image.line(self.services[service]["command"]),
                env=environ,
                cwd=self.root,
                stdout=out,
                stderr=out,
            )
        return Running(service, environ, ports, log, life)

    def _environ(self, service: str) -> tuple[dict[str, str], dict[str, str]]:
        """Its variables: secrets where they are here, ports that nobody else has."""
        ports = {}
        environ = dict(self.image.environ)
        for name, value in self.services[service]["environment"].items():
            if name.endswith("PORT"):
                environ[name] = ports[value] = str(free_port())
            else:
                environ[name] = str(value).replace("/run/secrets", str(self.secrets))
        return environ, ports


@contextmanager
def composed(root: Path, image: Image) -> Iterator[Compose]:
    """The servers of compose.yaml, set up and started as their images do it."""
    secrets = make_secrets(root / "secrets")
    pg_port, valkey_port = free_port(), free_port()
    tools = {"PGPORT": str(pg_port), "PATH": _tools(root, valkey_port, image.environ["PATH"])}
    for path in (*secrets.glob("postgres_*dsn"), *secrets.glob("valkey_url_*")):
        text = path.read_text().replace("@postgres:5432", f"@127.0.0.1:{pg_port}")
        path.write_text(text.replace("@valkey:6379", f"@127.0.0.1:{valkey_port}"))
    servers = {"postgres:5432": f"127.0.0.1:{pg_port}", "valkey:6379": f"127.0.0.1:{valkey_port}"}
    whole = Compose(root, image, secrets, servers, tools)
    lives: list[subprocess.Popen[bytes]] = []
    try:
        lives.append(_valkey(whole, valkey_port))
        lives.append(_postgres(whole, pg_port))
        assert process.until(lambda: whole.check("valkey", {}), HEALTHY_WITHIN_S)
        yield whole
    finally:
        for one in whole.running:
            if one.life.poll() is None:
                one.life.kill()
                one.life.wait()
        for life in reversed(lives):
            life.send_signal(signal.SIGINT)
            life.wait(60)


def _tools(root: Path, valkey_port: int, path: str) -> str:
    """A PATH with pg_isready and psql of the wheel, and a valkey-cli that is not in its."""
    folder = root / "bin"
    folder.mkdir()
    client = folder / "valkey-cli"
    client.write_text(
        f"#!{sys.executable}\n"
        "import argparse, redis\n"
        "asked = argparse.ArgumentParser()\n"
        "asked.add_argument('--user'), asked.add_argument('--pass', dest='word')\n"
        "asked.add_argument('--no-auth-warning', action='store_true')\n"
        "asked.add_argument('command', nargs='+')\n"
        "given = asked.parse_args()\n"
        f"server = redis.Redis(port={valkey_port}, username=given.user, password=given.word)\n"
        "print('PONG' if server.execute_command(*given.command) else '')\n"
    )
    client.chmod(0o755)
    return f"{folder}:{_postgres_programs()}:{path}"


def _postgres_programs() -> Path:
    from deploy.embedded.postgres import _program

    return _program("psql").parent


def _valkey(whole: Compose, port: int) -> subprocess.Popen[bytes]:
    """The server by its command line in compose.yaml, and where it may be here."""
    folder = whole.root / "valkey"
    folder.mkdir()
    program, *line = whole.services["valkey"]["command"]
    assert program == "valkey-server"
    line = [word.replace("/run/secrets", str(whole.secrets)) for word in line]
    here = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with (whole.root / "valkey.log").open("wb") as out:
        return subprocess.Popen([str(valkey_server()), *line, *here], stdout=out, stderr=out)


def _postgres(whole: Compose, port: int) -> subprocess.Popen[bytes]:
    """The server by its command line in compose.yaml, set up by what its image would do."""
    folder = whole.root / "postgres"
    folder.mkdir(mode=0o700)
    password = (whole.secrets / "postgres_password").read_text().strip()
    server = PostgresServer.prepare(folder, port, password)
    program, *line = whole.services["postgres"]["command"]
    assert program == "postgres"
    # The image is built with lz4, the wheel is not.
    line = [word.replace("wal_compression=lz4", "wal_compression=off") for word in line]
    child = server.child(own_environ())
    child = replace(child, program=(*child.program, *line))
    with (whole.root / "postgres.log").open("wb") as out:
        life = subprocess.Popen(
            launching.command(child.program, child.folder, child.death_signal, child.run_as),
            env=dict(child.environ),
            stdout=out,
            stderr=out,
        )
    environ = whole.services["postgres"]["environment"]
    assert process.until(server.answers, HEALTHY_WITHIN_S), (
        whole.root / "postgres.log"
    ).read_text()
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        name, login = (sql.Identifier(environ[key]) for key in ("POSTGRES_DB", "POSTGRES_USER"))
        make = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
        connection.execute(make.format(login, sql.Literal(password)))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, login))
    assert process.until(lambda: whole.check("postgres", {}), HEALTHY_WITHIN_S)
    run_roles(whole, (whole.secrets / "postgres_owner_dsn").read_text().strip())
    return life


def run_roles(whole: Compose, dsn: str) -> None:
    """Run roles.sql as the image does with what lies in docker-entrypoint-initdb.d."""
    passwords = whole.services["postgres"]["environment"]["APP_PASSWORD_FILE"]
    line = ["psql", "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--quiet", "-f", "roles.sql", dsn]
    subprocess.run(
        line,
        cwd=DEPLOY,
        env={
            **own_environ(),
            **whole.tools,
            "APP_PASSWORD_FILE": passwords.replace("/run/secrets", str(whole.secrets)),
        },
        timeout=30,
        check=True,
    )
