"""The description: valid, complete, and true to what is served."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from producer.http.openapi import describe
from producer.http.operations import OPERATIONS
from producer.http.routes import ROUTES

DESCRIPTION = describe()


def test_it_is_valid_openapi() -> None:
    """Generators and linters read it without complaint."""
    assert list(OpenAPIV31SpecValidator(DESCRIPTION).iter_errors()) == []


def test_it_describes_what_is_served_and_nothing_else() -> None:
    """Every route and method, and no other."""
    described = {(operation.path, operation.method.upper()) for operation in OPERATIONS}
    served = {(path, method) for path, handlers in ROUTES.items() for method in handlers}
    assert described == served


def test_it_is_the_same_every_time() -> None:
    """A description with jitter in it could not be compared."""
    assert describe() == describe()


def answers() -> list[tuple[str, str, Any]]:
    return [
        (f"{operation['operationId']} {status}", media_type, content)
        for methods in DESCRIPTION["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        for media_type, content in answer["content"].items()
    ]


@pytest.mark.parametrize(("name", "media_type", "content"), answers())
def test_every_answer_has_an_example_of_its_shape(
    name: str, media_type: str, content: dict[str, Any]
) -> None:
    """Whoever writes a client sees each answer once before it meets it."""
    found = content.get("examples", {"": {"value": content.get("example")}})
    assert found, name
    for example in found.values():
        assert example["value"] is not None
        _check(example["value"], content["schema"])


def test_every_body_has_an_example_of_its_shape() -> None:
    """The examples can be sent as they are."""
    bodies = [
        content
        for methods in DESCRIPTION["paths"].values()
        for operation in methods.values()
        for content in operation.get("requestBody", {"content": {}})["content"].values()
    ]
    assert len(bodies) == 9
    for content in bodies:
        _check(content["example"], content["schema"])


def test_patterns_are_of_the_dialect_of_json_schema() -> None:
    """Python's own anchors mean something else, or nothing, to other readers."""
    assert not re.search(r"\\\\[AZz]", json.dumps(DESCRIPTION))


def _check(example: Any, schema: dict[str, Any]) -> None:
    whole = {**schema, "components": DESCRIPTION["components"]}
    jsonschema.validate(example, whole, cls=jsonschema.Draft202012Validator)
