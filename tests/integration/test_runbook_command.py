"""`tidegate runbook` against real servers: every question of every page is answered."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from config.settings import Postgres, Settings, Valkey
from deploy.cli import faults, main
from deploy.runbooks import page
from deploy.runbooks.diagnosis import Deployment, ask
from deploy.runbooks.page import Step

PAGES = [page.read(alert) for alert in page.alerts()]
Captured = pytest.CaptureFixture[str]


def deployment(dsn: str, valkey_url: str) -> Deployment:
    settings = Settings(postgres=Postgres(dsn=dsn), valkey=Valkey(url=valkey_url))
    return Deployment(settings=settings, metrics={}, api="http://127.0.0.1:1")


def test_every_statement_of_every_page_is_answered_to_the_auditor(
    dsn: str, valkey_url: str
) -> None:
    """Nothing is misspelt, and the role may read what is asked."""
    asked = deployment(dsn, valkey_url)
    results = [
        (one.alert, ask(step, asked))
        for one in PAGES
        for step in one.first_look
        if step.kind in ("sql", "valkey")
    ]
    assert len(results) > len(PAGES)
    assert [(alert, result) for alert, result in results if result.status != "ran"] == []


def test_a_statement_changes_nothing_and_is_cut_short(
    dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a page says: it is asked in a read-only transaction, for some seconds at most."""
    asked = deployment(dsn, valkey_url)
    assert ask(Step("", "sql", "SHOW transaction_read_only"), asked).output.split() == [
        "transaction_read_only",
        "on",
    ]
    monkeypatch.setattr("deploy.runbooks.diagnosis.STATEMENT_MS", 50)
    late = ask(Step("", "sql", "SELECT pg_sleep(60)"), asked)
    assert (late.status, late.output) == ("unreachable", "no answer within 0 s")
    wrong = ask(Step("", "sql", "SELECT sold FROM nothing"), asked)
    assert wrong.status == "not_fine"
    assert "nothing" in wrong.output


def test_long_answers_are_cut_and_short_ones_are_a_table(dsn: str, valkey_url: str) -> None:
    """A person reads it."""
    asked = deployment(dsn, valkey_url)
    many = ask(Step("", "sql", "SELECT n, NULL AS gone FROM generate_series(1, 99) AS n"), asked)
    assert many.output.splitlines()[0] == "n   gone"
    assert many.output.splitlines()[-1] == "…"
    assert len(many.output.splitlines()) == 22
    assert ask(Step("", "sql", "SELECT 1 AS n WHERE false"), asked).output == "n\n(no rows)"


def test_a_server_that_is_gone_is_told_and_the_rest_is_asked(dsn: str, valkey_url: str) -> None:
    """PostgreSQL is away; Valkey is not."""
    there = deployment(dsn, valkey_url)
    gone = replace(
        there,
        settings=replace(there.settings, postgres=Postgres(dsn="postgresql://127.0.0.1:1/none")),
    )
    assert ask(Step("", "sql", "SELECT 1"), gone).status == "unreachable"
    told = ask(Step("", "valkey", "INFO memory"), gone)
    assert told.status == "ran"
    assert "maxmemory_policy" in told.output


def test_the_first_look_is_run_as_an_operator_types_it(
    dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Commands as well; the API is away, so it exits 3 and still tells the rest."""
    for name, value in (
        ("POSTGRES__DSN", dsn),
        ("VALKEY__URL", valkey_url),
        ("SECRETS__MASTER", "m" * 32),
        ("API__PORT", "1"),
    ):
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    with pytest.raises(SystemExit) as ended:
        main(["runbook", "postgresaway", "--json"])
    assert ended.value.code == faults.UNREACHABLE
    told = json.loads(capsys.readouterr().out)
    assert told["alert"] == "TidegatePostgresAway"
    status = {
        step["asked"].split()[0] + step["kind"]: step["status"] for step in told["first_look"]
    }
    assert status["SELECTsql"] == "ran"
    assert status["GEThttp"] == "unreachable"
    (doctor,) = [one for one in told["first_look"] if one["asked"] == "tidegate doctor"]
    assert "PostgreSQL" in doctor["output"]
    with pytest.raises(SystemExit):
        main(["runbook", "TidegatePostgresAway", "--url", "http://127.0.0.1:1/metrics"])
    printed = capsys.readouterr().out
    for words in ("What the user feels", "> tidegate doctor", "Levers", "When to escalate"):
        assert words in printed
