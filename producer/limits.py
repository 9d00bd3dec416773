"""The rate limits in force: read from the campaigns and gateways, kept fresh, usable when stale."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec
import psycopg
import structlog
from msgspec import Struct, field

from workers.contract.admission import CampaignLimits, RateLimit
from workers.store.limits import read_limits
from workers.store.pool import Connection

_log = structlog.get_logger()

REFRESH_INTERVAL_S = 1.0  # an operator's change of a limit holds everywhere within about this


class Limits(Struct, frozen=True):
    """Limits by campaign and by gateway; who is not named has none."""

    campaigns: Mapping[str, CampaignLimits] = field(default_factory=dict)
    gateways: Mapping[str, RateLimit] = field(default_factory=dict)


class LimitBook:
    """Hands out the latest limits; reads them again in the background of whoever asks.

    While PostgreSQL is away the last known limits stay in force: limits that vanish with a database
    would open the gate in its worst hour.
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._limits = Limits()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="limits", daemon=True)
        self.loaded = threading.Event()

    def start(self) -> None:
        """Begin to keep the limits fresh."""
        self._thread.start()

    def close(self) -> None:
        """Stop refreshing."""
        self._stop.set()

    def current(self) -> Limits:
        """Return the latest limits that could be read."""
        return self._limits

    def _refresh(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = self._open()
                self._limits = parse(*read_limits(connection))
                self.loaded.set()
            except psycopg.Error as error:
                _log.warning("limits not refreshed", error=type(error).__name__)
                if connection is not None:
                    connection.close()
            self._stop.wait(REFRESH_INTERVAL_S)
        if connection is not None:
            connection.close()


def parse(
    campaigns: Mapping[str, bytes], gateways: Mapping[str, tuple[float, int] | None]
) -> Limits:
    """Shape what the database holds: campaigns' limits are JSON by layer, gateways' rate and burst.

    A gateway without limits of its own has those its campaign files state for gateways, the
    tightest first; those are kept by campaign file under `gateway`.
    """
    by_campaign = {}
    common: list[RateLimit] = []
    for campaign_id, text in campaigns.items():
        layers = {
            layer: RateLimit(limit["rate"], limit["burst"])
            for layer, limit in msgspec.json.decode(text).items()
        }
        if "gateway" in layers:
            common.append(layers.pop("gateway"))
        by_campaign[campaign_id] = CampaignLimits(**layers)
    tightest = min(common, key=lambda limit: limit.rate, default=None)
    by_gateway = {
        gateway_id: RateLimit(*own) if own else tightest
        for gateway_id, own in gateways.items()
        if own or tightest
    }
    return Limits(by_campaign, {k: v for k, v in by_gateway.items() if v is not None})
