"""Keys: what the driver heard of each, sorted out of the history."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from deploy.chaos.history import Entry


class Key(Struct):
    """One idempotency key. `open` are calls of its posts whose end is unknown, or never came."""

    user: str = ""
    kind: str = ""
    units: dict[str, int] = field(default_factory=dict)
    invoked_at: float = 0.0
    receipts: list[Entry] = field(default_factory=list)
    noes: list[Entry] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    found: list[Entry] = field(default_factory=list)
    missing: list[Entry] = field(default_factory=list)


def keys_of(history: Sequence[Entry]) -> dict[str, Key]:
    """Sort a history by key."""
    keys: dict[str, Key] = {}
    for entry in history:
        if entry.op == "post":
            _post(keys, entry)
        elif entry.op == "find" and entry.phase in ("ok", "missing"):
            key = keys.setdefault(entry.key, Key())
            (key.found if entry.phase == "ok" else key.missing).append(entry)
    return keys


def _post(keys: dict[str, Key], entry: Entry) -> None:
    key = keys.setdefault(entry.key, Key())
    match entry.phase:
        case "invoke":
            if not key.invoked_at:
                key.invoked_at = entry.at
                key.user, key.kind, key.units = entry.user, entry.kind, entry.units
            key.open.add(entry.call)
        case "ok":
            key.open.discard(entry.call)
            key.receipts.append(entry)
        case "no":
            key.open.discard(entry.call)
            key.noes.append(entry)
        case _:
            pass  # unknown: it stays open
