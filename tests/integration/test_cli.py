"""The command line: exit codes that scripts can trust, and a mend beside each fault."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from pathlib import Path

import click
import psycopg
import pytest
import redis

from config.settings import Settings, load
from deploy.cli import faults, main
from deploy.cli.doctor import _exit_code
from deploy.cli.examine import connections_needed
from deploy.cli.finding import judge, unreachable
from deploy.cli.root import COMMANDS
from deploy.embedded.cluster import Cluster

NOWHERE = "postgresql://u:hunter2@127.0.0.1:1/none"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's environment decides nothing here."""
    import os

    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_and_explains_itself(
    name: str, capsys: Captured
) -> None:
    """The table is believed without loading what it names."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    assert isinstance(getattr(import_module(module), attribute), click.Command)
    assert run(name, "--help") == 0
    assert "Usage: tidegate" in capsys.readouterr().out


def test_the_overview_loads_no_command(capsys: Captured) -> None:
    """`tidegate --help` is quick."""
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in printed] == []


def test_a_misspelled_command_is_wrong_usage_with_a_suggestion(capsys: Captured) -> None:
    """Exit 2."""
    assert run("wroker") == faults.WRONG_USAGE
    assert "Did you mean 'worker'?" in capsys.readouterr().err


def test_settings_that_cannot_be_used_are_wrong_usage(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, and every fault on a line."""
    monkeypatch.setenv("TIDEGATE_API__PROT", "1")
    monkeypatch.setenv("TIDEGATE_LOG__LEVEL", "loud")
    assert run("migrate") == faults.WRONG_USAGE
    told = capsys.readouterr().err
    assert "did you mean TIDEGATE_API__PORT?" in told
    assert "TIDEGATE_LOG__LEVEL" in told


@pytest.mark.parametrize("command", ["api", "worker", "redispatcher", "governor", "relay"])
def test_no_process_serves_without_a_secret(command: str, capsys: Captured) -> None:
    """A default secret would be everybody's."""
    assert run(command) == faults.WRONG_USAGE
    assert "TIDEGATE_SECRETS__MASTER_FILE" in capsys.readouterr().err


def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, one line, no traceback."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", NOWHERE)
    assert run("migrate") == faults.UNREACHABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot reach PostgreSQL at postgresql://u:***@127.0.0.1:1/none" in line
    assert "hunter2" not in line


def test_a_folder_without_a_cluster_is_unreachable(capsys: Captured, tmp_path: Path) -> None:
    """Exit 3, and how to start one."""
    assert run("migrate", "--data", str(tmp_path)) == faults.UNREACHABLE
    assert f"tidegate dev --data {tmp_path}" in capsys.readouterr().err


def test_errors_that_only_a_developer_can_mend_keep_their_traceback() -> None:
    """A bug is not an operator's mistake."""
    assert faults.explain(ValueError("bug"), None) is None
    assert faults.explain(psycopg.errors.UniqueViolation("bug"), None) is None


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError("gone"), redis.ConnectionError("gone"), ConnectionRefusedError()],
)
def test_what_does_not_answer_is_told_apart_from_what_is_not_fine(error: Exception) -> None:
    """Scripts try again on 3."""
    explained = faults.explain(error, Settings())
    assert explained is not None
    assert explained.exit_code == faults.UNREACHABLE


def test_migrations_are_applied_once(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, empty_dsn: str
) -> None:
    """The second run says that there is nothing to do."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", empty_dsn)
    assert run("migrate", "--json") == 0
    assert "0001_core" in json.loads(capsys.readouterr().out)["applied"]
    assert run("migrate") == 0
    assert capsys.readouterr().out == "nothing to apply\n"


def test_the_doctor_finds_what_is_wrong_and_says_what_mends_it(
    capsys: Captured, servers: Cluster
) -> None:
    """The servers of the tests do not sync, and their first database is empty."""
    assert run("doctor", "--json", "--data", str(servers.data)) == faults.NOT_FINE
    findings = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    bad = {name: one["mend"] for name, one in findings.items() if one["status"] == "bad"}
    assert bad["PostgreSQL fsync"] == "ALTER SYSTEM SET fsync = on"
    assert bad["PostgreSQL schema"] == "run `tidegate migrate`"
    assert [name for name in bad if not name.startswith("PostgreSQL")] == []
    assert findings["Valkey maxmemory-policy"]["found"] == "noeviction"


def test_the_doctor_tells_what_is_gone(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, and the rest is examined all the same."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", NOWHERE)
    monkeypatch.setenv("TIDEGATE_VALKEY__URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("TIDEGATE_BROKER__URL", "amqp://u:hunter2@127.0.0.1:1//")
    assert run("doctor") == faults.UNREACHABLE
    printed = capsys.readouterr().out
    assert printed.count("GONE") == 3
    assert "open files" in printed
    assert "hunter2" not in printed


def test_the_doctors_exit_code_is_the_worst_finding() -> None:
    """Unreachable is worse than bad."""
    fine, bad = judge("a", True, "", ""), judge("b", False, "", "mend")
    assert _exit_code([fine]) == 0
    assert _exit_code([fine, bad]) == faults.NOT_FINE
    assert _exit_code([bad, unreachable("c", "", "")]) == faults.UNREACHABLE


def test_more_lanes_need_more_connections() -> None:
    """What the doctor holds against max_connections."""
    more = load(overrides={"api.processes": 4, "api.lanes": 8}, environ={})
    assert connections_needed(more) > connections_needed(Settings())


def test_shown_settings_are_a_settings_file(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is printed may be edited and used; each line says where its value came from."""
    monkeypatch.setenv("TIDEGATE_API__PORT", "9999")
    monkeypatch.setenv("TIDEGATE_SECRETS__MASTER", "m" * 32)
    assert run("config", "show") == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["api"]["port"] == 9999
    assert "# from TIDEGATE_API__PORT" in printed
    assert "m" * 32 not in printed
