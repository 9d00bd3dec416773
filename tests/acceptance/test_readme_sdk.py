"""The chat gateway that the README prints works as printed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
from deploy.embedded.cluster import Cluster

ROOT = Path(deploy.__file__).parents[1]
LINES_MAX = 80


def blocks(kind: str, holding: str) -> list[str]:
    """The README's blocks of a kind that hold a text."""
    readme = (ROOT / "README.md").read_text()
    return [
        text for text in re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL) if holding in text
    ]


@pytest.mark.timeout(120)
def test_the_chat_gateway_of_the_readme_serves_a_conversation(tmp_path: Path) -> None:
    """Saved and run as the README says, beside a cluster; only port and key are this test's own."""
    (program,) = blocks("python", "producer.client")
    (command,) = blocks("sh", "chat.py")
    assert program.count("\n") < LINES_MAX
    ast.parse(program)
    (tmp_path / "chat.py").write_text(program)
    with Cluster(tmp_path / "data", workers=1) as cluster:
        pasted = command.replace("http://127.0.0.1:8080", cluster.api_url).replace(
            ".venv/bin/python", sys.executable
        )
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", pasted],
            cwd=tmp_path,
            env=os.environ | {"KEY": cluster.api_key, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("ann")] == [
        "ann: Your coupon is ready to use.",
        "ann: Your order is confirmed. Enjoy!",
    ]
    assert [line for line in said if line.startswith("bob")] == [
        "bob: Your items are set aside for you. Please pay to complete the order.",
        "bob: Your order is confirmed. Enjoy!",
    ]
