"""What `tidegate chaos` takes, and what it refuses before anything is started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deploy.chaos.screen import Picture
from deploy.cli.chaos import Lasting, _shown, chaos
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


class Dying:
    """Its destructor is where the signal comes."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.fixture
def unheard() -> Iterator[None]:
    """Ctrl-C is ignored, as by what a shell without job control starts in the background."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.signal(signal.SIGINT, earlier) == signal.SIG_IGN


@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_to_end_stops_it_and_says_where_the_evidence_is(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), _shown(1, Path("/evidence"), as_json=True):
        signal.raise_signal(number)
    assert capsys.readouterr().err == "stopped; evidence so far: /evidence\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_is_lost_in_a_destructor_stops_it_at_the_next_look(tmp_path: Path) -> None:
    """Python prints what a destructor raises, and goes on: the run would go on to its end."""
    passed = []

    def run() -> None:
        with _shown(1, tmp_path, as_json=True) as shown:
            shown.show(Picture(stage="faults"))
            Dying(signal.SIGINT)
            passed.append("the signal")
            shown.show(Picture(stage="faults"))
            passed.append("the look")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert passed == ["the signal"]
