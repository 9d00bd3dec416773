"""What import-linter cannot see: sizes, names, where SQL lives, queries nobody calls."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "workers", "producer", "deploy")
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 420
# A word means one thing (ARCHITECTURE.md, "Words"); these would be second words for it.
BANNED_NAMES = re.compile(r"\b(voucher|promo|purchase_request|utils?|helpers?)\b", re.IGNORECASE)
SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b",
    re.IGNORECASE | re.DOTALL,
)
TOP_LEVEL = {"config", "workers", "producer", "deploy", "tests", ".ci", ".git"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def test_functions_and_modules_are_short_enough_to_read() -> None:
    long = []
    for path, tree in sources():
        lines = (ROOT / path).read_text().count("\n")
        if lines > MODULE_LINES_MAX:
            long.append(f"{path}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES_MAX:
                    long.append(f"{path}:{node.lineno} {node.name}: {size} lines")
    assert not long


def test_one_word_means_one_thing() -> None:
    found = []
    for path, tree in sources():
        names = [path.stem] + [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        found += [f"{path}: {name}" for name in names if BANNED_NAMES.search(name)]
    assert not found


def test_queries_live_in_sql_files() -> None:
    """A statement that a session needs about itself (SET, BEGIN, COMMIT) may stand in the code."""
    found = [
        f"{path}:{node.lineno}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    ]
    assert not found


def test_every_query_is_called() -> None:
    code = "\n".join((ROOT / path).read_text() for path, _ in sources())
    queries = [
        (file.name, name)
        for file in sorted((ROOT / "workers/store/queries").glob("*.sql"))
        if file.stem != "audit"  # called by iteration: each of its queries is a check
        for name in re.findall(r"^-- ([a-z][a-z0-9_]*) --$", file.read_text(), re.MULTILINE)
    ]
    unused = [query for query in queries if not re.search(rf"\b{query[1]}\b", code)]
    assert not unused


def test_the_top_level_holds_no_other_folder() -> None:
    here = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert here <= TOP_LEVEL
