"""What a simulated governor sees beside the gate."""

from __future__ import annotations

from typing import Any

from workers.contract.admission import Balance
from workers.service.govern import Heard, Look
from workers.store.load import Load

SCARCE_MAX = 100


class Looking:
    """The sources of one governor; `ear` gathers the sojourn times of announced outcomes, in ms."""

    def __init__(self, pipeline: Any) -> None:
        self.ear: list[float] = []
        self._pipeline = pipeline

    def hear(self) -> Heard:
        """See `govern.Sources`."""
        heard = Heard(len(self.ear), list(self.ear))
        self.ear.clear()
        return heard

    def look(self) -> Look:
        """See `govern.Sources`."""
        pipeline = self._pipeline
        database, now_s = pipeline.database, pipeline.stage.now
        if now_s < pipeline.away["postgres"]:
            return Look()
        rows = database.open.values()
        load = Load(
            oldest_ms=max((1_000 * (now_s - row.accepted_s) for row in rows), default=None),
            overdue_ms=max((1_000 * (now_s - row.dispatch_after_s) for row in rows), default=None),
            open_count=len(rows),
            connections_share=0.1,
            ordered=None,
        )
        balances = [
            (Balance(f"stock:spring:{sku}", version, available, reserved), available <= SCARCE_MAX)
            for sku, (available, reserved, _, version) in database.stock.items()
        ]
        return Look(postgres_ms=1.0, load=load, balances=balances, valkey_memory_share=0.1)
