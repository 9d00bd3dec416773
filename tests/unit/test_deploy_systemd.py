"""The systemd units: verified by systemd's own analysis, held against our settings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from config.settings import Settings
from deploy.cli.root import COMMANDS
from tests import programs
from tests.deploy_files import PROCESSES, SYSTEMD, make_secrets, run_tool, settings_of, unit
from workers.runtime.redispatcher import CLAIMS_OLDER_MS

# Each process's unit as it is started, and the file that it is written in.
UNITS = {
    "api": ("tidegate-api.service", "tidegate-api.service"),
    "worker": ("tidegate-worker@1.service", "tidegate-worker@.service"),
    "governor": ("tidegate-loop@governor.service", "tidegate-loop@.service"),
    "redispatcher": ("tidegate-loop@redispatcher.service", "tidegate-loop@.service"),
    "relay": ("tidegate-loop@relay.service", "tidegate-loop@.service"),
    "exporter": ("tidegate-loop@exporter.service", "tidegate-loop@.service"),
    "migrate": ("tidegate-migrate.service", "tidegate-migrate.service"),
}
SERVING = sorted(set(UNITS) - {"migrate"})
CLOSING_S = 10  # what a process of ours takes beyond its drain
EXPOSURE_MAX = 2.0  # of 10, by systemd's own measure

ANALYSE = "systemd-analyze"


def value(file: str, key: str) -> str:
    """What a key is set to last."""
    return unit(file)[key][-1]


def environ_of(process: str) -> dict[str, str]:
    """The variables that a process is started with."""
    name, file = UNITS[process]
    instance = name.partition("@")[2].removesuffix(".service")
    lines = [line.replace("%i", instance) for line in unit(file)["Service.Environment"]]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What DEPLOY.md asks to be put into /etc/tidegate/secrets."""
    folder = make_secrets(tmp_path / "secrets")
    (folder / "valkey_url").write_text("rediss://tidegate:p@valkey:6379/0")
    return folder


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root folder with the units where systemd looks for them."""
    units = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(SYSTEMD, units)
    for standard in ("basic", "multi-user", "network-online", "shutdown", "sysinit"):
        (units / f"{standard}.target").write_text("[Unit]\nDescription=standard\n")
    program = tmp_path / "opt" / "tidegate" / "bin" / "tidegate"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", ["tidegate.target", *(name for name, _ in UNITS.values())])
def test_systemd_understands_every_line(name: str, installed: Path) -> None:
    done = run_tool(
        programs.find("systemd", ANALYSE), "verify", f"--root={installed}", "--man=no", name
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("process", sorted(UNITS))
def test_no_service_can_do_more_than_it_must(process: str, installed: Path) -> None:
    done = run_tool(
        programs.find("systemd", ANALYSE),
        "security",
        "--offline=true",
        "--no-pager",
        f"--root={installed}",
        UNITS[process][0],
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= EXPOSURE_MAX


def test_every_process_is_started_with_the_target() -> None:
    wanted = re.findall(r"[\w@-]+\.service", (SYSTEMD / "tidegate.target").read_text())
    assert {UNITS[process][0] for process in PROCESSES} <= set(wanted)
    assert "tidegate-migrate.service" not in wanted  # a person decides when


@pytest.mark.parametrize("process", sorted(UNITS))
def test_a_unit_runs_the_command_of_its_name(process: str) -> None:
    name, file = UNITS[process]
    instance = name.partition("@")[2].removesuffix(".service")
    line = value(file, "Service.ExecStart").replace("%i", instance)
    assert line == f"/opt/tidegate/bin/tidegate {process}"
    assert process in COMMANDS


@pytest.mark.parametrize("process", sorted(UNITS))
def test_our_processes_take_their_settings(process: str, secrets: Path) -> None:
    """Each variable is one of ours, each secret a credential that the service is given."""
    environ = environ_of(process)
    settings = settings_of(environ, secrets, SYSTEMD / "tidegate.toml")
    login = "tidegate" if process == "migrate" else "tidegate_app"
    assert settings.postgres.dsn.startswith(f"postgresql://{login}:")
    assert len(settings.secrets.master) == 64
    assert environ["TIDEGATE_CONFIG"] == "/etc/tidegate/tidegate.toml"
    loaded = dict(line.split(":", 1) for line in unit(UNITS[process][1])["Service.LoadCredential"])
    named = {v for name, v in environ.items() if name.endswith("_FILE")}
    assert named == {f"%d/{credential}" for credential in loaded}
    assert loaded == {name: f"/etc/tidegate/secrets/{name}" for name in loaded}


def test_processes_of_one_host_share_no_port(secrets: Path) -> None:
    settings = {
        process: settings_of(environ_of(process), secrets, SYSTEMD / "tidegate.toml")
        for process in PROCESSES
    }
    ports = [settings["api"].api.port]
    ports += [getattr(settings[p], p).metrics_port for p in PROCESSES]
    assert 0 not in ports
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("process", SERVING)
def test_a_process_that_ends_is_started_again_for_ever(process: str) -> None:
    file = UNITS[process][1]
    assert value(file, "Service.Restart") == "always"
    assert value(file, "Unit.StartLimitIntervalSec") == "0"


@pytest.mark.parametrize("process", sorted(UNITS))
def test_only_the_process_itself_is_told_to_stop(process: str) -> None:
    """A worker's child that heard SIGTERM would leave in the middle of its batch."""
    assert value(UNITS[process][1], "Service.KillMode") == "mixed"


def test_a_worker_is_given_more_time_than_any_batch_takes() -> None:
    given_s = float(value("tidegate-worker@.service", "Service.TimeoutStopSec"))
    assert given_s > CLAIMS_OLDER_MS / 1_000 + CLOSING_S


def test_the_api_is_given_time_to_drain() -> None:
    given_s = float(value("tidegate-api.service", "Service.TimeoutStopSec"))
    assert given_s >= Settings().api.drain_timeout_s + 2 * CLOSING_S


@pytest.mark.parametrize("process", sorted(UNITS))
def test_memory_is_bounded(process: str) -> None:
    assert re.fullmatch(r"\d+[MG]", value(UNITS[process][1], "Service.MemoryMax"))
