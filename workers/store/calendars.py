"""How far the gateways' calendars may have been handed out: what a flush must not forget.

The recorded time is written before the gate may go so far, and only grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from workers.domain.appointment import Block
from workers.store import arrays
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("calendars")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def read(connection: Connection) -> dict[str, int | None]:
    """Return for every live gateway the recorded Unix ms; None: its calendar was never used."""
    return {
        gateway_id: None if until is None else _unix_ms(until)
        for gateway_id, until in connection.execute(_SQL.calendars_read)
    }


def extend(connection: Connection, blocks: Mapping[str, Block]) -> set[str]:
    """Record that each gateway's calendar may be handed out to the end of its block.

    Return the gateways whose blocks are the caller's. The others' recorded time is not what their
    block was made from any more: somebody else has taken it.
    """
    rows = connection.execute(
        _SQL.calendars_extend,
        {
            "gateway_ids": arrays.texts(list(blocks)),
            "recorded": arrays.times([_moment(block.recorded_ms) for block in blocks.values()]),
            "until": arrays.times([_moment(block.until_ms) for block in blocks.values()]),
        },
    )
    return {gateway_id for (gateway_id,) in rows}


def _moment(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else _EPOCH + unix_ms * _MS


def _unix_ms(moment: datetime) -> int:
    """Round up: what an operator wrote may be finer than a millisecond, and less would be unsafe."""
    return -((_EPOCH - moment) // _MS)
