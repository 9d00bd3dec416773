"""Reads what `deploy/` ships for other programs, as those programs would."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from config.settings import Settings, load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "k8s" / "tidegate"
SYSTEMD = DEPLOY / "systemd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of the commands that serve until they are told to stop.
PROCESSES = ("api", "worker", "governor", "redispatcher", "relay", "exporter")
TOOLS = Path(sys.executable).parent  # the linters of this environment


def locked(package: str) -> str:
    """The version of a package in uv.lock."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (version,) = [one["version"] for one in lock["package"] if one["name"] == package]
    return str(version)


def run_tool(*line: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a linter; it says what it has to say by its exit code and its output."""
    program, *rest = map(str, line)
    known = str(TOOLS / program) if (TOOLS / program).exists() else program
    return subprocess.run(
        [known, *rest], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )


# The Dockerfile ----------------------------------------------------------------------------------


@dataclass
class Instruction:
    """One instruction, its lines joined."""

    word: str
    rest: str

    @property
    def command(self) -> str:
        """What RUN runs, without the flags for the builder."""
        return re.sub(r"^(--\S+\s+)+", "", self.rest)

    @property
    def exec_form(self) -> list[str]:
        """The words of ENTRYPOINT or CMD; raises ValueError for the shell form."""
        words = json.loads(self.rest)
        assert isinstance(words, list)
        return words


@dataclass
class Stage:
    """From one FROM to the next."""

    image: str
    name: str
    instructions: list[Instruction]

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.instructions if one.word == word]

    @property
    def environ(self) -> dict[str, str]:
        """What ENV says."""
        pairs = [pair for one in self.all("ENV") for pair in shlex.split(one.rest)]
        return dict(pair.split("=", 1) for pair in pairs)


def dockerfile_stages(text: str) -> list[Stage]:
    """Split a Dockerfile into its stages."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Stage] = []
    for line in joined.splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            stages.append(Stage(image, name, []))
        else:
            stages[-1].instructions.append(Instruction(word, rest))
    return stages


class Context:
    """The build context: what .dockerignore lets through. The last line that matches decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (not line.startswith("!"), line.lstrip("!").rstrip("/"))
            for line in lines
            if line and not line.startswith("#")
        ]

    def holds(self, path: str) -> bool:
        ignored = False
        for ignores, pattern in self._rules:
            if self._matches(path, pattern):
                ignored = ignores
        return not ignored

    @staticmethod
    def _matches(path: str, pattern: str) -> bool:
        """A pattern names a path or a folder above it; `**/` stands for any folders, or none."""
        parts = path.split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        anywhere = pattern.removeprefix("**/")
        if anywhere != pattern:
            return any(fnmatchcase(part, anywhere) for part in parts)
        depth = pattern.count("/")
        return any(head.count("/") == depth and fnmatchcase(head, pattern) for head in heads)


# compose.yaml ------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")


def compose_text() -> str:
    return (DEPLOY / "compose.yaml").read_text()


def compose_variables(text: str) -> dict[str, set[str]]:
    """Every variable that a compose file asks for, with the defaults it has."""
    found: dict[str, set[str]] = {}
    for match in _VARIABLE.finditer(text):
        if match[1]:
            found.setdefault(match[1], set()).add(match[2] or "")
    return found


def compose(given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file as it is with these variables; merges are YAML's own."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else (given or {}).get(match[1]) or match[2] or ""

    document: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, compose_text()))
    return document


def seconds(text: str) -> float:
    """A duration as compose writes it."""
    match = re.fullmatch(r"(\d+)(ms|s|m)", text)
    assert match is not None, text
    return int(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2]]


# The chart ---------------------------------------------------------------------------------------

# Helm's own code, in a process of its own: it brings the threads of another language.
_HELM = """
import json, sys
from helm_python import chart
path, values, options = json.load(sys.stdin)
try:
    rendered = chart.Chart.load(path).render(values, **options)
    refused = ""
except Exception as error:
    rendered, refused = {}, f"{type(error).__name__}: {error}"
json.dump([rendered, chart.lint(path, values, strict=True), refused], sys.stdout)
"""


@dataclass
class Rendered:
    """A rendered chart: its objects in order, what the linter said, why it was refused."""

    objects: list[dict[str, Any]]
    lint: dict[str, Any]
    refused: str

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def of(self, kind: str, component: str) -> dict[str, Any]:
        """The one object of a kind that is a component's."""
        (found,) = [one for one in self.all(kind) if component_of(one) == component]
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The specification of every pod, with its component."""
        for one in self.objects:
            if one["kind"] in ("Deployment", "Job"):
                yield component_of(one), one["spec"]["template"]["spec"]
            elif one["kind"] == "Pod":
                yield component_of(one), one["spec"]


def component_of(one: Mapping[str, Any]) -> str:
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def render(values: Mapping[str, Any] | None = None, chart: Path = CHART) -> Rendered:
    """Render and lint a chart as release `shop` in namespace `orders`."""
    asked = [str(chart), values or {}, {"name": "shop", "namespace": "orders"}]
    done = subprocess.run(
        [sys.executable, "-c", _HELM],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rendered, lint, refused = json.loads(done.stdout)
    objects = [
        one
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for one in yaml.safe_load_all(text)
        if one
    ]
    return Rendered(objects, lint, refused)


# systemd -----------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """The assignments of a unit with what all units share, `Section.Key` to its values in order."""
    found: dict[str, list[str]] = {}
    for path in (SYSTEMD / name, SYSTEMD / "tidegate-.service.d" / "common.conf"):
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                found.setdefault(f"{section}.{key}", []).append(value)
    return found


# Settings ----------------------------------------------------------------------------------------


def settings_of(
    environ: Mapping[str, str], folder: Path, config_file: Path | None = None
) -> Settings:
    """Load settings as a process would, each secret's file being one in `folder` of its base name."""
    secrets = {
        name: str(folder / Path(value).name) if name.endswith("_FILE") else value
        for name, value in environ.items()
        if name.startswith("TIDEGATE_")
    }
    secrets.pop("TIDEGATE_CONFIG", None)
    return load(config_file, {}, secrets)


def make_secrets(folder: Path) -> Path:
    """Run deploy/secrets.sh."""
    line: Sequence[str | Path] = ["sh", DEPLOY / "secrets.sh", folder]
    subprocess.run(line, check=True, timeout=30)
    return folder
