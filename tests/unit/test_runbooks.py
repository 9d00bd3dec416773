"""Runbooks: one for each alert, and every command, query and name in them is one that works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from config.catalogue import metrics
from config.settings import Relay, Settings
from deploy.cli import faults, main
from deploy.cli import runbook as runbook_module
from deploy.cli.root import cli
from deploy.cli.target import Invocation
from deploy.monitoring import objectives
from deploy.monitoring.writing import HERE, alerts
from deploy.runbooks import diagnosis, figures, page
from deploy.runbooks.diagnosis import Deployment, ask
from deploy.runbooks.page import Page, PageError, Step
from producer.http.routes import ROUTES

PAGES = [page.read(alert) for alert in page.alerts()]
ALERTS = {
    alert.name
    for group in alerts(objectives.read(HERE / "objectives.toml")).values()
    for alert in group
}
README = (Path(page.__file__).parent / "README.md").read_text()
# What a person puts in place of ID, as one command or another takes it.
IDS = ("ID", "01890000-0000-7000-8000-000000000000", "7")
Captured = pytest.CaptureFixture[str]

each_page = pytest.mark.parametrize("one", PAGES, ids=lambda one: one.alert)


def asked(one: Page, kind: str) -> list[str]:
    """Return every question of a kind, wherever on the page."""
    steps = [step for text in one.sections.values() for step in page.steps(text)]
    return [step.asked for step in steps if step.kind == kind]


def commands(one: Page) -> Iterator[str]:
    """Yield every command line of a page, in blocks and within sentences."""
    yield from asked(one, "sh")
    for text in one.sections.values():
        yield from re.findall(r"`(tidegate [^`]+)`", text)


def parses(line: str) -> bool:
    """Tell whether the command exists and takes these arguments, by click's own parser."""
    context = click.Context(cli, obj=Invocation())
    command: click.Command | None = cli
    words = shlex.split(line)[1:]
    try:
        while isinstance(command, click.Group):
            name, command, words = command.resolve_command(context, words)
        assert command is not None
        command.make_context(name, words, parent=context)
    except click.ClickException:
        return False
    return True


def test_every_alert_has_a_runbook_and_no_runbook_is_of_nothing() -> None:
    """By its name."""
    assert {one.alert for one in PAGES} == ALERTS == set(page.alerts())


@each_page
def test_every_command_works_as_printed(one: Page) -> None:
    """Who is woken has no time to find out what an option is called now."""
    printed = list(commands(one))
    assert printed
    for line in printed:
        if "…" not in line:
            tried = [re.sub(r"\bID\b", some, line) for some in IDS]
            assert any(map(parses, tried)), line


@pytest.mark.parametrize(
    "line",
    [
        "tidegate level shut --reason x",
        "tidegate level close",
        "tidegate level close --because x",
        "tidegate level force open --reason x",
        "tidegate quarantine retry 7",
        "tidegate webhook replay seven",
        "tidegate prune --older-than soon",
    ],
)
def test_a_command_that_does_not_work_is_found_out(line: str) -> None:
    """The check of the test above."""
    assert not parses(line)


def test_the_folders_own_commands_work() -> None:
    """README.md."""
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.split("\n")
    ]
    assert [line for line in lines if line and not parses(line)] == []


@each_page
def test_the_first_look_only_looks(one: Page) -> None:
    """`tidegate runbook` runs it without asking."""
    assert one.first_look
    for step in one.first_look:
        if step.kind == "sh":
            assert diagnosis.looks_only(shlex.split(step.asked)[1:]), step.asked
        if step.kind == "sql":
            assert re.match(r"(SELECT|WITH)\b", step.asked)
            assert ";" not in step.asked


@each_page
def test_everybody_who_is_asked_exists(one: Page) -> None:
    """Metrics of the catalogue, sections of INFO, routes of the API, other alerts."""
    names = [name for block in asked(one, "metrics") for name in block.split()]
    assert set(names) <= set(metrics())
    assert all(re.fullmatch(r"INFO( [a-z]+)?", line) for line in asked(one, "valkey"))
    for line in asked(one, "http"):
        method, _, path = line.partition(" ")
        assert method in ROUTES[path.partition("?")[0]]
    text = "\n".join(one.sections.values())
    assert set(re.findall(r"\bTidegate(?:[A-Z][a-z]+){2,}\b", text)) <= ALERTS


@each_page
def test_a_figure_in_prose_is_a_metric_or_a_setting_that_exists(one: Page) -> None:
    """`tidegate_…` is of the catalogue, `group.name` of the settings."""
    text = "\n".join(one.sections.values())
    assert set(re.findall(r"`(tidegate_\w+)`", text)) <= set(metrics())
    groups = Settings.__struct_fields__
    for group, name in re.findall(r"`([a-z]+)\.([a-z_]+)`", text):
        if group in groups:
            assert name in getattr(Settings(), group).__struct_fields__


def test_a_page_lacks_no_section_and_asks_nobody_unknown() -> None:
    """Broken pages are found when they are read."""
    with pytest.raises(PageError, match="expected the sections"):
        page.parse("# TidegateX\n\nX.\n\n## First look\n\nnothing")
    with pytest.raises(PageError, match="a block of bash"):
        list(page.steps("```bash\nrm -rf /\n```\n"))


def test_lines_are_asked_one_by_one_and_statements_as_a_whole() -> None:
    """The words before a block are told once."""
    text = "Look:\n\n```sh\ntidegate doctor\ntidegate level show\n```\n\n```sql\nSELECT\n1\n```\n"
    assert list(page.steps(text)) == [
        Step("Look:", "sh", "tidegate doctor"),
        Step("", "sh", "tidegate level show"),
        Step("", "sql", "SELECT\n1"),
    ]


def nowhere() -> Deployment:
    """A deployment of which nothing answers."""
    settings = Settings()
    return Deployment(
        settings=settings, metrics={"api": "http://127.0.0.1:1/metrics"}, api="http://127.0.0.1:1"
    )


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (Step("", "sh", "tidegate level close --reason x"), "not_run"),
        (Step("", "sh", "rm -rf /"), "not_run"),
        (Step("", "valkey", "FLUSHALL"), "not_run"),
        (Step("", "http", "GET /readyz"), "unreachable"),
        (Step("", "metrics", "tidegate_level"), "unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.asked,
)
def test_what_changes_something_is_not_run_and_what_is_gone_is_told(
    step: Step, status: str
) -> None:
    """Nothing raises: the next question is asked."""
    assert ask(step, nowhere()).status == status


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is woken is not kept waiting; what it printed by then is dropped."""
    real = subprocess.run

    def hangs(arguments, **given):
        del arguments
        return real([sys.executable, "-c", "import time; time.sleep(600)"], **given)

    monkeypatch.setattr(subprocess, "run", hangs)
    monkeypatch.setattr(diagnosis, "COMMAND_S", 0.2)
    result = ask(Step("", "sh", "tidegate doctor"), nowhere())
    assert (result.status, result.output) == ("unreachable", "no answer within 0 s")


def test_counters_are_told_with_what_they_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is 0, only that it is; of what nobody shows, that too."""
    texts = {
        "a": (
            "tidegate_batches_total 10\ntidegate_level 2\n"
            'tidegate_verdicts_total{class="order",verdict="level"} 0\n'
        ),
        "b": "tidegate_batches_total 5\n",
    }
    before, faulty = figures.read_pages({"a": "a", "b": "b"}, texts.__getitem__)
    texts["a"] = texts["a"].replace("10", "30")
    after, _ = figures.read_pages({"a": "a", "b": "b"}, texts.__getitem__)
    names = [
        "tidegate_batches_total",
        "tidegate_level",
        "tidegate_verdicts_total",
        "tidegate_in_flight",
    ]
    assert faulty == []
    assert list(figures.lines(names, before, after)) == [
        "tidegate_batches_total  30  (+10.0/s)  [a]",
        "tidegate_batches_total  5  (+0.0/s)  [b]",
        "tidegate_level  2  [a]",
        "tidegate_verdicts_total  0 everywhere",
        "tidegate_in_flight  shown by no process asked",
    ]


def run(*arguments: str) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_without_an_alert_all_are_listed(capsys: Captured) -> None:
    """Each with its one line."""
    assert run("runbook", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {one.alert: one.about for one in PAGES}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("TidegatePostgressAway", "TidegatePostgresAway"), ("postgresaway!", "TidegatePostgresAway")],
)
def test_an_alert_that_is_unknown_is_guessed_at(typed: str, meant: str, capsys: Captured) -> None:
    """Exit 2, as for any wrong usage."""
    assert run("runbook", typed) == faults.WRONG_USAGE
    assert f"did you mean {meant}" in capsys.readouterr().err


def test_where_no_cluster_runs_it_says_so(tmp_path: Path, capsys: Captured) -> None:
    """Exit 3."""
    assert run("runbook", "LedgerDrift", "--data", str(tmp_path)) == faults.UNREACHABLE
    assert run("scrape-targets", "--data", str(tmp_path)) == faults.UNREACHABLE
    assert "no cluster runs on" in capsys.readouterr().err


def test_metrics_pages_are_those_whose_ports_are_set() -> None:
    """On this machine, beside the API's own."""
    settings = Settings(relay=Relay(metrics_port=9105))
    assert runbook_module._own_pages(settings, "http://127.0.0.1:8080") == {
        "api": "http://127.0.0.1:8080/metrics",
        "relay": "http://127.0.0.1:9105/metrics",
    }
