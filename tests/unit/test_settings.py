"""Settings: precedence, strictness, and that every fault is told at once with its mend."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from config.settings import (
    Settings,
    SettingsError,
    load,
    redact_url,
    redacted,
    require_secrets,
    to_environ,
)

MASTER = "m" * 32


def file_with(folder: Path, text: str) -> Path:
    """Write a settings file."""
    file = folder / "tidegate.toml"
    file.write_text(text, encoding="utf-8")
    return file


def faults_of(**given: object) -> list[str]:
    """Load with faults and return them."""
    with pytest.raises(SettingsError) as caught:
        load(**{"environ": {}, **given})  # type: ignore[arg-type]
    return list(caught.value.faults)


def test_without_any_source_the_defaults_hold() -> None:
    """Every setting has a default, and the defaults do not contradict each other."""
    assert load(environ={}) == Settings()


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """The closer to the operator's fingers, the stronger."""
    file = file_with(tmp_path, "[api]\nport = 1\nlanes = 2\nbatch_max = 3\n")
    environ = {"TIDEGATE_API__PORT": "11", "TIDEGATE_API__LANES": "12"}
    api = load(file, {"api.port": 21}, environ).api
    assert (api.port, api.lanes, api.batch_max, api.processes) == (21, 12, 3, 1)


def test_an_override_of_none_is_not_given() -> None:
    """An option left out on the command line hides nothing."""
    assert load(None, {"api.port": None}, {"TIDEGATE_API__PORT": "9"}).api.port == 9


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    """TIDEGATE_CONFIG stands in for --config, which beats it."""
    named = file_with(tmp_path, '[log]\nlevel = "debug"\n')
    environ = {"TIDEGATE_CONFIG": str(named)}
    assert load(environ=environ).log.level == "debug"
    (tmp_path / "other").mkdir()
    given = file_with(tmp_path / "other", '[log]\nlevel = "error"\n')
    assert load(given, environ=environ).log.level == "error"


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    """`…_FILE` names a file; the line end that editors add does not belong to the secret."""
    secret = tmp_path / "master"
    secret.write_text(MASTER + "\n", encoding="utf-8")
    assert load(environ={"TIDEGATE_SECRETS__MASTER_FILE": str(secret)}).secrets.master == MASTER


def test_a_variable_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    """Nobody shall guess which of two secrets is in force."""
    environ = {"TIDEGATE_SECRETS__MASTER": MASTER, "TIDEGATE_SECRETS__MASTER_FILE": str(tmp_path)}
    (fault,) = faults_of(environ=environ)
    assert "TIDEGATE_SECRETS__MASTER is set too" in fault


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """One start shows all that is to be mended, in every source."""
    file = file_with(tmp_path, '[api]\nlanes = "two"\n[admission]\nin_flight_max = 0\n[apy]\n')
    environ = {"TIDEGATE_API__PORT": "99999", "TIDEGATE_SECRETS__MASTER_FILE": "/nowhere"}
    told = "\n".join(faults_of(config_file=file, overrides={"worker.x": 1}, environ=environ))
    for expected in ("api.lanes", "in_flight_max", "apy", "API__PORT", "/nowhere", "worker.x"):
        assert expected in told


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TIDEGATE_API__PROT", "TIDEGATE_API__PORT"),
        ("TIDEGATE_WORKER__BATCHMAX", "TIDEGATE_WORKER__BATCH_MAX"),
        ("TIDEGATE_FAILPOINT", "TIDEGATE_FAILPOINTS"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_suggestion(name: str, meant: str) -> None:
    """A misspelled setting that is silently ignored is found on the worst day."""
    (fault,) = faults_of(environ={name: "1"})
    assert fault.startswith(f"{name}: unknown; did you mean {meant}")


def test_an_unknown_key_of_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    """As in the environment."""
    (fault,) = faults_of(config_file=file_with(tmp_path, "[api]\nprot = 1\n"))
    assert fault.endswith("api.prot: unknown; did you mean api.port?")


def test_variables_that_kubernetes_adds_are_not_ours() -> None:
    """A service named `tidegate-api` puts its address into every pod under our prefix."""
    environ = {
        "TIDEGATE_API_PORT": "tcp://10.0.0.1:80",
        "TIDEGATE_API_PORT_80_TCP_ADDR": "10.0.0.1",
        "TIDEGATE_API_SERVICE_HOST": "10.0.0.1",
        "TIDEGATE_API_SERVICE_PORT_HTTP": "80",
    }
    assert load(environ=environ) == Settings()


def test_a_file_that_is_not_toml_is_a_fault_with_its_line(tmp_path: Path) -> None:
    """The reader is told where to look."""
    (fault,) = faults_of(config_file=file_with(tmp_path, "[api\n"))
    assert "not TOML" in fault
    assert "line 1" in fault


def test_a_file_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    """A named file is meant; its absence is no default."""
    (fault,) = faults_of(config_file=tmp_path / "none.toml")
    assert "cannot be read" in fault


def test_numbers_in_a_file_are_numbers(tmp_path: Path) -> None:
    """TOML has types; text in place of a number is a mistake there, while a variable is text."""
    assert faults_of(config_file=file_with(tmp_path, '[api]\nport = "80"\n'))
    assert load(environ={"TIDEGATE_API__PORT": "80"}).api.port == 80


@pytest.mark.parametrize("text", ["a" * 32 + "," + "b" * 32, f'["{"a" * 32}", "{"b" * 32}"]'])
def test_a_list_is_read_from_words_or_json(text: str) -> None:
    """Rotated secrets fit into one variable."""
    secrets = load(environ={"TIDEGATE_SECRETS__OLD_MASTERS": text}).secrets
    assert secrets.old_masters == ("a" * 32, "b" * 32)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SECRETS__MASTER": "short"}, "secrets.master"),
        ({"VALKEY__URL": "valkey://h"}, "valkey.url"),
        ({"BROKER__URL": "http://h"}, "broker.url"),
        ({"API__PENDING_MAX": "10"}, "api.pending_max"),
        ({"VALKEY__TIMEOUT_MS": "5000"}, "valkey.timeout_ms"),
        ({"GOVERNOR__WAIT_MAX_MS": "2849"}, "governor.wait_max_ms"),
        ({"GOVERNOR__INTERVAL_MS": "2000"}, "governor.lease_ms"),
        ({"FAILPOINTS": "publish.before=kill"}, "failpoints"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    variables: dict[str, str], told: str
) -> None:
    """What no single bound shows is checked over the whole."""
    (fault,) = faults_of(environ={f"TIDEGATE_{name}": text for name, text in variables.items()})
    assert fault.startswith(told)


def test_no_secret_and_no_password_is_printed() -> None:
    """`config show` may be pasted into a ticket."""
    settings = load(
        overrides={
            "secrets.master": MASTER,
            "secrets.old_masters": ["o" * 32],
            "postgres.dsn": "postgresql://app:hunter2@db/t?sslpassword=hunter2",
            "valkey.url": "rediss://:hunter2@cache:6380/1",
            "broker.url": "amqp://app:hunter2@mq//",
        },
        environ={},
    )
    printed = msgspec.json.encode(redacted(settings)).decode()
    assert "hunter2" not in printed
    assert MASTER not in printed
    assert "o" * 32 not in printed
    assert "app:***@db" in printed


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@ss/w@h/d", "postgresql://u:***@h/d"),
        ("host=h password='a b' dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = x dbname=d", "host=h password = *** dbname=d"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("unix:///run/v.sock?db=1", "unix:///run/v.sock?db=1"),
    ],
)
def test_a_password_is_masked_in_every_spelling(url: str, shown: str) -> None:
    """URLs and libpq keyword strings alike."""
    assert redact_url(url) == shown


def test_a_child_loads_the_same_settings() -> None:
    """What is handed over as environment is what the parent had."""
    settings = load(
        overrides={"api.port": 1, "secrets.old_masters": ["x" * 32], "log.format": "text"},
        environ={},
    )
    assert load(environ=to_environ(settings)) == settings


def test_the_broker_is_valkey_unless_it_is_named() -> None:
    """Kombu's spelling of a Unix socket differs from redis-py's."""
    assert load(environ={}).broker_url == Settings().valkey.url
    on_socket = load(overrides={"valkey.url": "unix:///run/v.sock?db=2"}, environ={})
    assert on_socket.broker_url == "redis+socket:///run/v.sock?virtual_host=2"


def test_without_a_master_secret_nothing_is_served() -> None:
    """The refusal says how to make one."""
    with pytest.raises(SettingsError, match="openssl rand"):
        require_secrets(Settings())
    require_secrets(load(overrides={"secrets.master": MASTER}, environ={}))
