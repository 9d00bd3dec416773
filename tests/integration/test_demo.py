"""`tidegate demo`, small, as a newcomer starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_DEMO = (sys.executable, "-m", "deploy.cli", "demo")


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_a_small_demo_adds_up_and_says_so_as_json() -> None:
    """From nothing to a clean audit; progress goes to the other stream, without control codes."""
    done = subprocess.run(
        [*_DEMO, "--orders", "400", "--duration", "2", "--seed", "7", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["clean"]
    assert result["load"]["intents"] == 400
    assert result["load"]["accepted"] == result["load"]["outcomes"]
    assert result["load"]["committed"] > 200
    assert result["coupons_in_bulk"] == 388
    assert result["coupons_live"] == 12
    assert result["audit"]["in_flight"] == 0
    assert "[7/7]" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the replay: over within seconds, every process gone."""
    command = [*_DEMO, "--orders", "2000", "--duration", "60", "--data", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "[5/7]" in line:
                break
        endpoints = json.loads((tmp_path / "data" / "endpoints.json").read_text())
        pids = [pid for some in endpoints["processes"].values() for pid in some]
        assert pids
        assert all(_alive(pid) for pid in pids)
        asked_at = time.monotonic()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
        assert time.monotonic() - asked_at < 20
    assert not [pid for pid in pids if _alive(pid)]
