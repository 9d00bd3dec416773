"""All files that are written from the objectives, as texts by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.monitoring import causes, dashboard, recording, symptoms, yaml_text
from deploy.monitoring.alert import Alert, as_rule
from deploy.monitoring.boards import campaign, dependencies, overload, pipeline, service
from deploy.monitoring.objectives import Objectives

HERE = Path(__file__).parent

BOARDS = (service.BOARD, overload.BOARD, pipeline.BOARD, campaign.BOARD, dependencies.BOARD)
_HEAD = "# Written by `python -m deploy.monitoring`; change objectives.toml or the tables there.\n"


def alerts(objectives: Objectives) -> dict[str, Sequence[Alert]]:
    """Return every alert, by the group and file it stands in."""
    return {
        "objectives": symptoms.burning(objectives),
        "symptoms": symptoms.SYMPTOMS,
        "causes": causes.CAUSES,
    }


def files(objectives: Objectives) -> dict[str, str]:
    """Return what is written, by path."""
    return {
        "rules/objectives.yaml": _rules("tidegate-recording", recording.rules(objectives)),
        **{
            f"alerts/{name}.yaml": _rules(
                f"tidegate-{name}", [as_rule(alert, objectives.links) for alert in group]
            )
            for name, group in alerts(objectives).items()
        },
        **{f"dashboards/{board.name}.json": dashboard.text(board, BOARDS) for board in BOARDS},
    }


def write(texts: Mapping[str, str], out: Path) -> Iterator[Path]:
    """Write the files under a folder; yield the paths of those that changed."""
    for name, text in texts.items():
        path = out / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        yield path


def _rules(group: str, rules: Sequence[Mapping[str, object]]) -> str:
    return _HEAD + yaml_text.document({"groups": [{"name": group, "rules": list(rules)}]})
