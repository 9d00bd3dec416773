"""Where lines go: those of processes to standard output, those of commands beside their result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_kit import settings_for
from kit import World, comes_true
from msgspec.structs import replace

from config.settings import Log, Settings, to_environ


def settings(world: World, **log: Any) -> Settings:
    made = settings_for(world.dsn, world.valkey_url)
    return replace(made, log=Log(**log))


def environ(made: Settings) -> dict[str, str]:
    return {**os.environ, **to_environ(made)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", *arguments]


def until_it_serves(process: str, running: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield its events until it is one that can be told to stop."""
    assert running.stdout is not None
    for line in running.stdout:
        event = json.loads(line)
        yield event
        if process == "api" and event["event"] == "listening":
            url = f"http://127.0.0.1:{event['port']}/readyz"
            assert comes_true(lambda url=url: answers(url), 30)  # type: ignore[misc]
            return
        if event["event"] == "leads" or event["event"].endswith(" ready."):
            return
    raise AssertionError("it ended")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("process", ["api", "worker", "governor"])
def test_all_that_a_process_says_is_lines_of_json_on_standard_output(
    world: World, process: str
) -> None:
    """From its start to its end; Celery, which likes to print, included."""
    made = settings(world, level="debug")
    with subprocess.Popen(
        command(process),
        env=environ(made),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        events = list(until_it_serves(process, running))
        running.send_signal(signal.SIGTERM)
        rest, errors = running.communicate(timeout=60)
    assert running.returncode == 0
    events += [json.loads(line) for line in rest.splitlines()]
    assert {event["process"] for event in events} == {process}
    assert errors == ""


def test_a_commands_result_stands_alone_on_standard_output(world: World) -> None:
    """A script reads it, whatever the libraries have to say beside."""
    made = settings(world, level="debug", format="json")
    done = subprocess.run(
        command("level", "show", "--json"),
        env=environ(made),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "holds" in json.loads(done.stdout)
