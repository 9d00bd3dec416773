"""ARCHITECTURE.md says of each promise which scenario attacks it: those scenarios exist, and all do."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.chaos.mutations import MUTATIONS
from deploy.chaos.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
TABLE = re.findall(
    r"^\| (.+) \| (.+) \| (.+) \| (.*) \|$", TEXT.split("| promise |", 1)[1], re.MULTILINE
)
PROMISES = (
    "A receipt is a promise",
    "Never twice",
    "Never more than there is",
    "Never less, either",
    "Refuse early, once, and kindly",
    "Overload bends, never breaks",
    "Everything counted adds up",
    "Never a false no",
)


def words(cell: str) -> list[str]:
    return [word for word in re.findall(r"`([\w*-]+)`", cell) if not word.startswith("test_")]


def test_every_promise_is_there() -> None:
    told = " ".join(promise for promise, *_ in TABLE)
    assert [one for one in PROMISES if f"**{one}**" not in told] == []


def test_every_scenario_that_is_named_exists() -> None:
    """A star stands for several."""
    named = [word for _, _, attacked, _ in TABLE for word in words(attacked)]
    assert len(named) > 30
    for word in named:
        found = [one for one in SCENARIOS if re.fullmatch(word.replace("*", ".+"), one)]
        assert found, word


def test_every_mutation_is_named_with_the_promise_it_breaks() -> None:
    named = {word for *_, mutation in TABLE for word in words(mutation)}
    assert named == set(MUTATIONS)
