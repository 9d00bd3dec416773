"""What the README prints works as printed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import deploy
from deploy.cli.root import COMMANDS
from deploy.embedded.cluster import Cluster

ROOT = Path(deploy.__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(holding: str) -> list[str]:
    """The shell blocks that hold a text."""
    return [
        block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if holding in block
    ]


def test_the_curl_examples_work_as_printed(tmp_path: Path) -> None:
    """Pasted into a shell beside `tidegate dev`; only port and folder are this test's own."""
    (block,) = blocks("curl")
    with Cluster(tmp_path / "data") as cluster:
        pasted = block.replace("http://127.0.0.1:8080", cluster.api_url).replace(
            ".tidegate", str(cluster.data)
        )
        done = subprocess.run(
            ["bash", "-e", "-c", pasted],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]
    order, coupon, again, coupons = answers
    assert (order["status"], order["order"]["status"]) == ("committed", "awaiting_payment")
    assert (coupon["status"], coupon["coupon"]["value"]) == ("committed", 2500)
    assert again["intent_id"] == order["intent_id"]
    assert coupon["coupon"]["code"] in json.dumps(coupons)


def test_every_command_the_readme_names_exists() -> None:
    named = set(
        re.findall(
            r"^(?:\.venv/bin/)?tidegate ([a-z]+)", "\n".join(blocks("tidegate")), re.MULTILINE
        )
    )
    assert named <= set(COMMANDS)
