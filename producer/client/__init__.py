"""The gateway SDK: what a chat gateway needs to order through Tidegate, on the worst day too.

    with Gateway("https://orders.example", key) as gateway:
        result = gateway.submit(user_id="u-1", campaign_id="spring", lines={"tea": 1}, patience_s=30)
        say(result.message)

`Gateway` and `AsyncGateway` do the same, with threads and with asyncio. Whatever comes of a wish is a
value (`producer.client.model`), with a text for the chat; only a mistake of the caller's is raised.
"""

try:
    import httpx as _httpx  # noqa: F401  # said here, where whoever lacks it will look
except ModuleNotFoundError as error:
    msg = "the gateway SDK needs httpx: install tidegate[client]"
    raise ModuleNotFoundError(msg, name="httpx") from error

from producer.client.aio import AsyncGateway
from producer.client.faults import (
    Forbidden,
    GatewayFault,
    InvalidCall,
    KeyConflict,
    NotFound,
    Unauthenticated,
)
from producer.client.flow import Options
from producer.client.model import (
    Accepted,
    Cancelled,
    Committed,
    Issued,
    NotAccepted,
    NotDone,
    Paid,
    Refused,
    Status,
    TurnedAway,
    Unconfirmed,
    Unknown,
    Unreadable,
    UserCoupon,
    WaitNotice,
)
from producer.client.sync import Gateway
from workers.domain.money import Money

__all__ = [
    "Accepted",
    "AsyncGateway",
    "Cancelled",
    "Committed",
    "Forbidden",
    "Gateway",
    "GatewayFault",
    "InvalidCall",
    "Issued",
    "KeyConflict",
    "Money",
    "NotAccepted",
    "NotDone",
    "NotFound",
    "Options",
    "Paid",
    "Refused",
    "Status",
    "TurnedAway",
    "Unauthenticated",
    "Unconfirmed",
    "Unknown",
    "Unreadable",
    "UserCoupon",
    "WaitNotice",
]
