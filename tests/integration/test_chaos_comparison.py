"""The consumer without a journal, under kills: judged by what it did itself."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from deploy.chaos import comparison
from deploy.chaos.screen import PlainScreen


def test_what_an_earlier_run_did_is_not_counted_for_a_later_one(tmp_path: Path) -> None:
    """The messages of every run have the same names: nothing would be lost, and all done twice."""
    (tmp_path / "done.txt").write_text("".join(f"m-{n}\n" for n in range(400)))
    found = comparison.perform(7, 1.0, tmp_path, PlainScreen(StringIO(), 1)).figures
    assert found["sent"] == 400
    assert found["doubled"] < 20, "only what was done and not acknowledged is done again"
    assert found["lost"] >= 0
