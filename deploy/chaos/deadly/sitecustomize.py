"""Makes deadly intents deadly in this process. Python imports it at start by its name.

Only on the path of workers that a scenario of `tidegate chaos` starts. What dies is the process that
decides, in the midst of a batch with other people's intents: no exception, no cleaning up.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

_PIECE = 16 * 1024 * 1024


def _die_of(user: str) -> None:
    from deploy.chaos.deadly import HOG, SEGFAULT

    if user == SEGFAULT:
        ctypes.string_at(0)
    taken = []
    while user == HOG:
        taken.append(b"x" * _PIECE)


def _expose() -> None:
    from workers.domain import decide

    decide_all = decide.decide

    def deadly(intents: Sequence[Any], *rest: Any) -> Any:
        for intent in intents:
            _die_of(intent.user_id)
        return decide_all(intents, *rest)

    vars(decide)["decide"] = deadly


if os.environ.get("CHAOS_DEADLY"):
    _expose()
