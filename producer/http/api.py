"""What the handlers share, in one process on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from producer.answers import Answer, Posted
from producer.batcher import Batcher
from producer.http.auth import Keys
from producer.http.desk import Desk
from producer.http.messages import Messages
from producer.http.render import Codes
from producer.waiters import Waiters


@dataclass(frozen=True)
class Api:
    """The parts of a running API. `draining` is set when it takes nothing new and ends.

    `level` tells the overload level.
    """

    intake: Batcher[Posted, Answer]
    keys: Keys
    desk: Desk
    waiters: Waiters
    messages: Messages
    codes: Codes
    level: Callable[[], str]
    wait_max_s: int
    draining: asyncio.Event
