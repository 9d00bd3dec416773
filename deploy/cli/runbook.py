"""`tidegate runbook`: the first look at an alert, run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import Invocation, connection_settings, data_option

if TYPE_CHECKING:
    from config.settings import Settings
    from deploy.runbooks.diagnosis import Deployment, Result
    from deploy.runbooks.page import Page, Step


@click.command()
@click.argument("alert", required=False)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="A metrics page to read; may be repeated. [those of --data, or of the settings]",
)
@click.option("--key", default="", help="A gateway's key, for what the API tells only them.")
@data_option
@json_option
@click.pass_obj
def runbook(
    invocation: Invocation,
    *,
    alert: str | None,
    urls: tuple[str, ...],
    key: str,
    data: Path | None,
    as_json: bool,
) -> int:
    """Print the runbook of ALERT and run its first look; without ALERT, list them.

    What is run only looks, and each question has a time-out. Exits 1 when something looked at is
    not fine, 3 when something cannot be reached.
    """
    from deploy.runbooks import diagnosis, page

    if alert is None:
        abouts = {name: page.read(name).about for name in page.alerts()}
        show(abouts, "\n".join(f"{n:<34} {about}" for n, about in abouts.items()), as_json=as_json)
        return 0
    found = page.read(_known(alert, page.alerts()))
    asked = _deployment(invocation, urls, key, data)
    if not as_json:
        click.echo(f"{found.alert}: {found.about}\n\n{page.FEELS}\n")
        click.echo(indent(found.sections[page.FEELS], "  "))
        click.echo(f"\n{page.FIRST_LOOK}")
    results = []
    for step in found.first_look:
        results.append(diagnosis.ask(step, asked))
        if not as_json:  # a person reads while the next is asked
            click.echo(_told(step, results[-1]))
    if as_json:
        show(_plain(found, results), "", as_json=True)
    else:
        for heading in (page.LEVERS, page.ESCALATE):
            click.echo(f"\n{heading}\n\n{indent(found.sections[heading], '  ')}")
    return _exit_code(results)


def _known(alert: str, alerts: Sequence[str]) -> str:
    """Return the alert's name in its own spelling; refuse with those that are spelled alike."""
    by_fold = {name.lower(): name for name in alerts}
    folded = alert.lower()
    for spelling in (folded, f"tidegate{folded}"):
        if spelling in by_fold:
            return by_fold[spelling]
    alike = difflib.get_close_matches(folded, by_fold, n=3) or difflib.get_close_matches(
        f"tidegate{folded}", by_fold, n=3
    )
    hint = f"; did you mean {', '.join(by_fold[name] for name in alike)}?" if alike else ""
    raise click.BadParameter(f"no runbook for {alert!r}{hint}", param_hint="ALERT")


def _deployment(
    invocation: Invocation, urls: tuple[str, ...], key: str, data: Path | None
) -> Deployment:
    from deploy.embedded import endpoints
    from deploy.runbooks.diagnosis import Deployment

    settings = connection_settings(data)
    pages = {url: url for url in urls}
    api = f"http://{settings.api.host}:{settings.api.port}"
    if data is not None:
        where = endpoints.read(data)
        pages, api, key = pages or where.metrics, where.api, key or where.api_key
    return Deployment(
        settings=settings,
        metrics=pages or _own_pages(settings, api),
        api=api,
        api_key=key,
        data=data,
        config_file=invocation.config_file,
    )


def _own_pages(settings: Settings, api: str) -> dict[str, str]:
    """Return the metrics pages that the settings name on this machine."""
    ports = {
        process: getattr(getattr(settings, process), "metrics_port", 0)
        for process in settings.__struct_fields__
    }
    own = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items() if port}
    return {"api": f"{api}/metrics", **own}


def _told(step: Step, result: Result) -> str:
    words = f"\n{indent(step.words, '  ')}\n" if step.words else ""
    prompt = "  > " if step.kind == "sh" else f"  {step.kind}> "
    head = prompt + indent(step.asked, " " * len(prompt)).lstrip()
    mark = "" if result.status == "ran" else f"  [{result.status.replace('_', ' ')}]"
    return f"{words}\n{head}{mark}\n{indent(result.output, '      ')}"


def _plain(found: Page, results: Sequence[Result]) -> dict[str, Any]:
    return {"alert": found.alert, "about": found.about, "first_look": results}


def _exit_code(results: Sequence[Result]) -> int:
    met = {result.status for result in results}
    if "unreachable" in met:
        return faults.UNREACHABLE
    return faults.NOT_FINE if "not_fine" in met else 0
