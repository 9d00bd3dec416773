"""The listener: writes every announced outcome into the history, heard beside all API processes."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self
from uuid import UUID

import redis

from deploy.chaos.answers import spell_coupon, spell_order
from deploy.chaos.history import History
from workers.contract.hearing import Hearing, Pairs
from workers.contract.names import gate_names
from workers.contract.resource import IntentResource, unpack

_TIMEOUT_S: Final = 2.0


class Listener:
    """Hears the announcements of one cluster; a context manager. Deaf whenever Valkey is away."""

    def __init__(self, valkey_url: str, key_prefix: str, history: History) -> None:
        self._history = history
        self._hearing = Hearing(
            lambda: redis.Redis.from_url(valkey_url, socket_timeout=_TIMEOUT_S),
            gate_names(key_prefix).outcome_channel,
            self._heard,
        )

    def __enter__(self) -> Self:
        self._hearing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hearing.close()

    def _heard(self, pairs: Pairs) -> None:
        for intent_id, record in pairs:
            spelt = _spelt(unpack(record))
            self._history.end(
                0, "announced", "ok", intent_id=str(UUID(bytes=intent_id)), outcome=spelt
            )


def _spelt(told: IntentResource) -> str:
    if told.refusal is not None:
        return f"refused {told.refusal.value}"
    if told.order is not None:
        return spell_order(told.order.total, told.order.discount, told.order.payable)
    return spell_coupon(told.coupon.value if told.coupon is not None else 0)
