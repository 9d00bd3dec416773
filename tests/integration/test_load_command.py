"""`tidegate load`, as typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli.load import load
from tests.integration.toy_api import Toy, serving


@pytest.fixture
def toy() -> Iterator[Toy]:
    """A toy of the API."""
    with serving(Toy()) as running:
        yield running


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(load, arguments)


def test_a_run_that_adds_up_exits_0_and_prints_its_report(toy: Toy) -> None:
    """People read lines, programs read JSON; progress goes to the other stream then."""
    common = ("--profile", "steady", "--url", toy.url, "--key", "tg_toy", "--duration", "0.4")
    told = _run(*common, "--rate", "500/s")
    assert told.exit_code == 0, told.output
    assert "intents = outcomes: yes (200 receipts, 200 outcomes; each exactly one)" in told.stdout
    as_json = _run(*common, "--rate", "500", "--json")
    report: dict[str, Any] = json.loads(as_json.stdout)
    assert (report["intents"], report["committed"], report["holds"]) == (200, 200, True)
    assert "[1/2]" in as_json.stderr


def test_a_run_that_does_not_add_up_exits_1(toy: Toy) -> None:
    """The exit code is the check's."""
    toy.decide_after_s = 3_600
    arguments = ["--profile", "steady", "--url", toy.url, "--key", "tg_toy", "--orders", "20",
                 "--duration", "0.1", "--drain-max", "0.2"]  # fmt: skip
    # As `tidegate` calls its commands: what one returns is the exit code.
    told = CliRunner().invoke(load, arguments, standalone_mode=False)
    assert told.return_value == 1
    assert "intents = outcomes: NO" in told.stdout


def test_the_same_seed_is_a_replay(toy: Toy) -> None:
    """Two runs with one seed make one set of intents; another seed makes another."""
    common = ("--profile", "qwen", "--url", toy.url, "--key", "k", "--orders", "50",
              "--duration", "0.1")  # fmt: skip
    for seed, kept in (("1", 50), ("1", 50), ("2", 100)):
        assert _run(*common, "--seed", seed).exit_code == 0
        assert len(toy.intents) == kept


def test_coupons_of_a_file_are_redeemed(toy: Toy, tmp_path: Path) -> None:
    """The file is what `tidegate campaign issue` writes."""
    file = tmp_path / "coupons.ndjson"
    rows = [{"user_id": f"u-{n}", "coupon_code": f"CODE{n}"} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = _run("--profile", "steady", "--url", toy.url, "--key", "k", "--orders", "30",
                "--duration", "0.1", "--coupons", str(file))  # fmt: skip
    assert told.exit_code == 0
    codes = {intent["coupon_code"] for intent in toy.intents.values()}
    assert codes == {f"CODE{n}" for n in range(30)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile", "no-such"), "qwen"),
        (("--profile", "qwen", "--campaign", "no-such"), "campaign no-such"),
        (("--profile", "qwen", "--rate", "1", "--orders", "1", "--duration", "1"), "two of them"),
        (("--profile", "qwen", "--rate", "fast"), "not a rate"),
        (("--profile", "qwen", "--url", "localhost:1"), "base URL"),
    ],
)
def test_wrong_usage_is_named(arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, and a line that says what would be right."""
    told = _run("--url", "http://127.0.0.1:9", "--key", "k", *arguments)
    assert told.exit_code == 2
    assert words in told.stderr


def test_a_deployment_that_is_away_is_said_once_not_a_hundred_thousand_times() -> None:
    """One question comes before the plan."""
    told = _run("--profile", "qwen", "--url", "http://127.0.0.1:9", "--key", "k")
    assert isinstance(told.exception, ConnectionError)
    assert "127.0.0.1:9" in str(told.exception)
