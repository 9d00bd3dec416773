"""A tiny campaign run, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import campaign


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_places_each_order_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped when a chunk was sent but is not in the log: it is sent again, and nothing twice."""
    arguments = ["--orders", "500", "--chunk", "300", "--connections", "50", "--json"]
    arguments += ["--data", str(tmp_path / "run")]

    def interrupted(folder: Path, number: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(campaign, "forget_coupons", interrupted)
        assert campaign.main(arguments) == 130
    log = tmp_path / "run" / "campaign.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"type":"chunk"' not in line))

    assert campaign.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["planned"], summary["orders_in_tables"], summary["receipts"]) == (500,) * 3
    assert (summary["sessions"], summary["audit_clean"], summary["counts_agree"]) == (2, True, True)
    assert not list((tmp_path / "run").glob("coupons-*"))
