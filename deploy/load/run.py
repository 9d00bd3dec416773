"""A run: plan, send, drain, and tell somebody how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic

import uvloop
from msgspec import Struct

from deploy.load.books import Books
from deploy.load.drain import Patience, drain
from deploy.load.generator import Generator, Mode
from deploy.load.plan import Plan
from deploy.load.profile import Retry
from deploy.load.wire import Target

# Often enough to look alive; drawing a frame takes a few milliseconds, in which nothing is sent.
_FRAME_S = 0.25


class Moment(Struct, frozen=True):
    """A run as it stands, for whoever shows it."""

    stage: str  # "sending" or "draining"
    books: Books
    elapsed_s: float  # in this stage


class Played(Struct, frozen=True):
    """A run that is over."""

    books: Books
    sending_s: float
    drain_s: float
    connections: int


Watch = Callable[[Moment], None]


def play(
    plan: Plan,
    to: Target,
    retry: Retry,
    *,
    mode: Mode = Mode(),
    seed: int = 0,
    patience: Patience = Patience(),
    watch: Watch = lambda _: None,
) -> Played:
    """Send `plan`, learn what became of it, and return the books.

    Blocks; KeyboardInterrupt ends it at once and leaves nothing behind.
    """
    with (
        _planned_objects_left_alone(),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_play(plan, to, retry, mode, seed, patience, watch))


async def _play(
    plan: Plan,
    to: Target,
    retry: Retry,
    mode: Mode,
    seed: int,
    patience: Patience,
    watch: Watch,
) -> Played:
    books = Books(plan.intents)
    generator = Generator(plan, to, books, retry, mode, seed)
    async with _shown("sending", books, watch):
        await generator.run()
    async with _shown("draining", books, watch):
        drain_s = await drain(plan, to, books, patience)
    return Played(books, generator.elapsed_s, drain_s, generator.connections_used)


@contextlib.asynccontextmanager
async def _shown(stage: str, books: Books, watch: Watch) -> AsyncIterator[None]:
    """Show a stage while it lasts, and once more at its end."""
    began = monotonic()

    async def show() -> None:
        while True:
            watch(Moment(stage, books, monotonic() - began))
            await asyncio.sleep(_FRAME_S)

    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
    watch(Moment(stage, books, monotonic() - began))


@contextlib.contextmanager
def _planned_objects_left_alone() -> Iterator[None]:
    """Keep the collector from walking the whole plan in the middle of sending: it takes 50 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
