"""What `tidegate chaos` takes, and what it refuses before anything is started."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from deploy.cli.chaos import Lasting, chaos
from deploy.cli.target import Invocation


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1_800), ("12s", 12), ("5", 5), ("1h", 3_600)]
)
def test_a_duration_has_a_unit_or_is_of_seconds(text: str, seconds: int) -> None:
    assert Lasting().convert(text, None, None).total_seconds() == seconds


@pytest.mark.parametrize("text", ["1s", "soon", "-3", "2.5.1", "m"])
def test_what_is_no_duration_or_too_short_for_any_load_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Lasting().convert(text, None, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "give --scenario"),
        (["--scenario", "kills", "--mutation", "oversell"], "give --scenario"),
        (["--scenario", "nothing"], "no scenario is called 'nothing'"),
        (["--mutation", "nothing"], "no mutation is called 'nothing'"),
        (["--scenario", "freeze", "--kills", "10"], "--kills needs"),
        (["--scenario", "kills", "--kills", "10"], "--kills needs"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        chaos.main(line, obj=Invocation(), standalone_mode=False)


def test_help_names_every_way_to_run_it() -> None:
    told = CliRunner().invoke(chaos, ["--help"]).output
    for option in (
        "--scenario",
        "--list",
        "--seed",
        "--duration",
        "--data",
        "--kills",
        "--mutation",
    ):
        assert option in told
