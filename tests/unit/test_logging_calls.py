"""How the code logs: an event is a constant, and an exception is handed over whole."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "workers", "producer", "deploy")
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and is_of_a_log(node.func):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def is_of_a_log(called: ast.expr) -> bool:
    """`_log.info`, and `(_log.warning if … else _log.info)`."""
    if isinstance(called, ast.IfExp):
        return is_of_a_log(called.body)
    return (
        isinstance(called, ast.Attribute)
        and ast.unparse(called.value) == "_log"
        and called.attr in METHODS
    )


def quotes(value: ast.expr) -> bool:
    return any(
        isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr"))
        for node in ast.walk(value)
    )


def test_there_are_calls_to_judge() -> None:
    assert len(list(log_calls())) > 40


def test_an_event_is_a_constant_and_never_made_of_values() -> None:
    """So lines can be counted and searched, and nobody's text becomes the event."""

    def constant(event: ast.expr) -> bool:
        if isinstance(event, ast.IfExp):
            return constant(event.body) and constant(event.orelse)
        return isinstance(event, ast.Constant)

    assert [place for place, call in log_calls() if not constant(call.args[0])] == []


def test_an_exception_is_handed_over_and_not_its_text() -> None:
    """`str(error)` quotes what a user sent; the redaction knows exceptions, and not their texts."""
    quoted = [
        f"{place} {keyword.arg}"
        for place, call in log_calls()
        for keyword in call.keywords
        if quotes(keyword.value)
    ]
    assert quoted == []
