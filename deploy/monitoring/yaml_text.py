"""YAML as far as rule files need it: mappings, lists, and texts that may have lines.

Own code, since the runtime needs YAML nowhere else: expressions read well only as block scalars.
Every other text is written as JSON writes it, which YAML reads as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_INDENT = "  "
# A text that no reader takes for a number, a truth value, nothing, or a sign of YAML's own.
_PLAIN = re.compile(r"(?!(?:true|false|null|yes|no|on|off)$)[A-Za-z_/][\w:/. -]*[\w.]")


def document(value: Mapping[str, object]) -> str:
    """Write a document; a text with a line break becomes a block scalar."""
    return "".join(f"{line}\n" for line in _mapping(value, 0))


def _mapping(value: Mapping[str, object], depth: int) -> list[str]:
    lines = []
    for key, inner in value.items():
        lines += _entry(f"{_INDENT * depth}{key}:", inner, depth)
    return lines


def _entry(head: str, value: object, depth: int) -> list[str]:
    if isinstance(value, Mapping):
        return [head, *_mapping(value, depth + 1)]
    if isinstance(value, str) and "\n" in value:
        return [f"{head} |-", *(_INDENT * (depth + 1) + line for line in value.splitlines())]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [head, *(line for item in value for line in _item(item, depth + 1))]
    return [f"{head} {_scalar(value)}"]


def _item(value: object, depth: int) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{_INDENT * depth}- {_scalar(value)}"]
    first, *others = _mapping(value, depth + 1)
    return [f"{_INDENT * depth}- {first.lstrip()}", *others]


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and ": " not in value:
        return value
    return json.dumps(value, ensure_ascii=False)
