"""No statement is made of values: its text is a constant, what varies is a parameter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "workers", "producer", "deploy")
MIGRATIONS = sorted((ROOT / "workers/store/migrations").glob("*.sql"))
EXECUTES = {"execute", "executemany", "stream", "copy"}
STATEMENT = re.compile(
    r"^\s*(SELECT|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|WITH\s+\w+\s+AS|MERGE\s+INTO|TRUNCATE"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|ROLE|DATABASE|SCHEMA|INDEX|VIEW|FUNCTION|USER)|GRANT|REVOKE"
    r"|SET\s+(LOCAL|ROLE|SESSION)|COPY)\b",
    re.IGNORECASE,
)


def built(code: str) -> Iterator[str]:
    """The texts of statements that are put together, and of whatever is executed so."""
    for node in ast.walk(ast.parse(code)):
        if _is_put_together(node) and STATEMENT.match(_constant_part(node)):
            yield ast.unparse(node)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in EXECUTES
            and node.args
            and _is_put_together(node.args[0])
        ):
            yield ast.unparse(node.args[0])


def _is_put_together(node: ast.AST) -> bool:
    """Whether it is an f-string, a sum or a `%` of texts, or `"…".format(…)`.

    `sql.SQL("…").format(…)` quotes what it is given, by what each part is.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "format" and isinstance(node.func.value, ast.Constant)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(
            isinstance(side, ast.JoinedStr)
            or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        )
    return isinstance(node, ast.JoinedStr)


def _constant_part(node: ast.AST) -> str:
    """The texts in it, in order; `x` stands for what is put in between."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "x"  # type: ignore[misc]
            for part in node.values
        )
    return "".join(
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


@pytest.mark.parametrize(
    "code",
    [
        "connection.execute(f'SELECT * FROM t WHERE user_id = {user}')",
        "query = f'DELETE FROM {table}'",
        "query = 'SELECT 1 FROM t WHERE a = ' + name",
        "query = 'UPDATE t SET a = %s' % value",
        "query = 'SET ROLE {}'.format(role)",
        "cursor.execute(head + ' LIMIT 1')",
    ],
)
def test_a_statement_that_is_put_together_is_seen(code: str) -> None:
    """The rule below could fail."""
    assert list(built(code))


@pytest.mark.parametrize(
    "code",
    [
        "connection.execute(_SQL.orders_lock, {'user': user})",
        "connection.execute('SET LOCAL jit = off')",
        "connection.execute(sql.SQL('DROP TABLE {}').format(sql.Identifier(name)))",
        "print(f'selected {count} of {table}')",
    ],
)
def test_a_constant_statement_with_parameters_is_none_of_them(code: str) -> None:
    assert not list(built(code))


def test_no_statement_is_put_together() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in built(path.read_text())
    ]
    assert not found


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_a_function_of_other_rights_looks_nowhere_else(path: Path) -> None:
    """Who may create a table in a schema of the caller's path must not be called in its place."""
    text = re.sub(r"--.*", "", path.read_text())
    for function in re.findall(
        r"CREATE (?:OR REPLACE )?FUNCTION.*?(?:\$\$|RETURN )", text, re.DOTALL
    ):
        if "SECURITY DEFINER" in function:
            assert re.search(r"SET search_path = tidegate\b", function), function


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_what_a_function_executes_is_quoted_part_by_part(path: Path) -> None:
    for executed in re.findall(
        r"\bEXECUTE\s+(?!FUNCTION\b|ON\b)(.*?);", path.read_text(), re.DOTALL
    ):
        template = re.match(r"format\(\s*'([^']*)'", executed)
        assert template is not None, executed
        assert set(re.findall(r"%(.)", template[1])) <= {"I", "L"}, executed
