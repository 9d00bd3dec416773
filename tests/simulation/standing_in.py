"""Production on twins: its stores, its clock and its luck are those of a simulated stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import sql_twin
from virtual import Stage

from producer import intake
from workers.service import process_batch
from workers.store import journal, session

_journal = SimpleNamespace(
    key_digest=journal.key_digest,
    fingerprint=journal.fingerprint,
    append_many=sql_twin.append_many,
    find_keys=sql_twin.find_keys,
)
_quiet = SimpleNamespace(warning=lambda *_, **__: None)


@contextlib.contextmanager
def standing_in(stage: Stage) -> Iterator[None]:
    """Let production meet the twins, and virtual time, for as long as this lasts."""
    time = SimpleNamespace(monotonic=lambda: stage.now, sleep=stage.sleep)
    twins: list[tuple[Any, str, Any]] = [
        (session, "batch", sql_twin),
        (session, "applying", sql_twin),
        (session, "resources", sql_twin),
        (session, "time", time),
        (process_batch, "time", time),
        (process_batch, "random", stage.luck),
        (intake, "time", time),
        (intake, "_log", _quiet),
        (intake, "resources", sql_twin),
        (intake, "journal", _journal),
    ]
    before = [getattr(module, name) for module, name, _ in twins]
    for module, name, twin in twins:
        setattr(module, name, twin)
    try:
        yield
    finally:
        for (module, name, _), own in zip(twins, before, strict=True):
            setattr(module, name, own)
