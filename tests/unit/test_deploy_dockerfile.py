"""The Dockerfile: one small image that cannot do much, built from exactly what is locked."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.deploy_files import (
    DEPLOY,
    PROJECT,
    ROOT,
    Context,
    Stage,
    dockerfile_stages,
    locked,
    run_tool,
)

STAGES = dockerfile_stages((DEPLOY / "Dockerfile").read_text())
CONTEXT = Context((ROOT / ".dockerignore").read_text())


@pytest.fixture
def build() -> Stage:
    return next(stage for stage in STAGES if stage.name == "build")


def test_the_linter_has_nothing_to_say() -> None:
    done = run_tool("hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_image_is_pinned_to_a_version() -> None:
    loose = [stage.image for stage in STAGES if not re.search(r":\d+\.\d+\.\d+", stage.image)]
    assert loose == []


def test_what_was_built_meets_the_same_python(build: Stage) -> None:
    assert build.image == STAGES[-1].image


def test_uv_is_the_one_of_the_lock() -> None:
    (uv,) = [stage for stage in STAGES if stage.name == "uv"]
    assert uv.image == f"ghcr.io/astral-sh/uv:{locked('uv')}"


def test_the_label_tells_the_version_of_the_project() -> None:
    (label,) = STAGES[-1].all("LABEL")
    assert f'image.version="{PROJECT["version"]}"' in label.rest


def test_the_image_runs_as_nobody_in_particular() -> None:
    """A number: Kubernetes' runAsNonRoot cannot look names up."""
    (user,) = STAGES[-1].all("USER")
    uid, gid = map(int, user.rest.split(":"))
    assert uid >= 10_000
    assert gid >= 10_000


def test_tidegate_is_process_1() -> None:
    """In shell form a shell would be, and keep SIGTERM for itself."""
    assert STAGES[-1].all("ENTRYPOINT")[0].exec_form == ["tidegate"]
    assert STAGES[-1].all("CMD")[0].exec_form == ["--help"]


def test_only_what_was_built_reaches_the_image(build: Stage) -> None:
    target = build.environ["UV_PROJECT_ENVIRONMENT"]
    copied = [one.rest for one in STAGES[-1].all("COPY")]
    assert copied == [f"--from=build {target} {target}"]
    assert f"{target}/bin:" in STAGES[-1].environ["PATH"]


def test_dependencies_are_a_layer_that_no_change_of_code_touches(build: Stage) -> None:
    words = [(one.word, one.rest) for one in build.instructions if one.word in ("COPY", "RUN")]
    before_first_run = [rest for word, rest in words[: [w for w, _ in words].index("RUN")]]
    assert before_first_run[-1] == "pyproject.toml uv.lock ./"
    assert not any(rest.startswith(".") for rest in before_first_run)


def test_every_build_step_takes_the_lock_as_it_is(build: Stage) -> None:
    steps = [run.command for run in build.all("RUN")]
    assert len(steps) == 2
    for step in steps:
        assert {"--locked", "--no-dev"} <= set(step.split())


def test_the_context_holds_what_is_built_and_nothing_else() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sent = [path for path in files if CONTEXT.holds(path)]
    packages = ("config/", "workers/", "producer/", "deploy/")
    assert {path for path in sent if not path.startswith(packages)} == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "uv.lock",
    }
    missing = [
        path
        for path in files
        if path.endswith((".py", ".sql", ".lua")) and path.startswith(packages) and path not in sent
    ]
    assert missing == ["deploy/roles.sql"]  # psql reads it, not we


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".tidegate/endpoints.json",
        "deploy/secrets/master_key",
        "deploy/.env",
        ".env",
        "tests/conftest.py",
        "workers/store/__pycache__/pool.cpython-311.pyc",
    ],
)
def test_no_secret_and_no_rubbish_reaches_the_builder(path: str) -> None:
    assert not CONTEXT.holds(path)
