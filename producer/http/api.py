"""What the handlers share, in one process on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

from producer.answers import Answer, Posted
from producer.batcher import Batcher
from producer.console.watch import Watch
from producer.http.auth import Keys
from producer.http.desk import Desk
from producer.http.messages import Messages
from producer.http.polls import Polls
from producer.http.render import Codes
from producer.http.status import Board
from producer.levels import LevelBook
from producer.waiters import Waiters
from workers.store.overview import Overview


@dataclass(frozen=True)
class Api:
    """The parts of a running API. `draining` is set when it takes nothing new and ends.

    `overview` reads what operators watch (raises Problem), `hints` asks the broker how many wait; it
    blocks, and raises whatever its transport raises.
    """

    intake: Batcher[Posted, Answer]
    keys: Keys
    desk: Desk
    waiters: Waiters
    messages: Messages
    codes: Codes
    wait_max_s: int
    draining: asyncio.Event
    overview: Callable[[], Awaitable[Overview]]
    hints: Callable[[], int]
    levels: LevelBook = field(default_factory=LevelBook)
    polls: Polls = field(default_factory=Polls)

    @cached_property
    def board(self) -> Board:
        """What is told of the whole system."""
        return Board(self.levels, self.messages, self.waiters.sojourn.wait_ms)

    @cached_property
    def watch(self) -> Watch:
        """What operators watch; nothing is asked before the first of them does."""
        return Watch(self)
