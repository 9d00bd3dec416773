"""The shipped configuration of Prometheus at another pace, so that hours pass in minutes.

What is changed: how often it scrapes and evaluates, once a second both; and every span of rules and
alerts (windows, offsets, `for`), which is divided by one factor. Nothing else: no expression, no
threshold, no name. The bounds in seconds that an alert compares with stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from deploy.monitoring.writing import HERE

_TARGETS: Final = "../../.tidegate/scrape-targets.json"
_EVERY: Final = re.compile(r"\b(scrape_interval|evaluation_interval|refresh_interval): \d+[ms]")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NUMBER: Final = r"(\d+)([smhd])\b"
# Of a range, of an offset, and of `for`.
_SPAN: Final = re.compile(rf'(\[|\boffset |\bfor: "){_NUMBER}')


def hurried(factor: int, folder: Path, targets: Path) -> Path:
    """Write prometheus.yml, rules and alerts into a folder, so many times as fast; return the first.

    `targets` is the file of `tidegate scrape-targets`.
    """
    text = (HERE / "prometheus.yml").read_text(encoding="utf-8")
    text, changed = _EVERY.subn(r"\1: 1s", text)
    if changed != 3 or text.count(_TARGETS) != 1:
        raise ValueError("prometheus.yml has another form than is known here")
    config = folder / "prometheus.yml"
    config.write_text(text.replace(_TARGETS, str(targets.resolve())), encoding="utf-8")
    for file in (*HERE.glob("rules/*.yaml"), *HERE.glob("alerts/*.yaml")):
        copy = folder / file.relative_to(HERE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(shortened(file.read_text(encoding="utf-8"), factor), encoding="utf-8")
    return config


def shortened(text: str, factor: int) -> str:
    """Return rules with every span divided by a factor."""
    return text if factor == 1 else _SPAN.sub(lambda span: _shorter(span, factor), text)


def _shorter(span: re.Match[str], factor: int) -> str:
    lasting_ms = int(span[2]) * _UNIT_MS[span[3]]
    return f"{span[1]}{max(1, lasting_ms // factor)}ms"
