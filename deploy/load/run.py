"""A run: plan, send, drain, and tell somebody how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

import uvloop
from msgspec import Struct

from deploy.load.books import Books
from deploy.load.drain import Patience, drain
from deploy.load.generator import Generator, Mode
from deploy.load.plan import Plan
from deploy.load.profile import Retry
from deploy.load.wire import Target

T = TypeVar("T")

# Often enough to look alive; drawing a frame takes a few milliseconds, in which nothing is sent.
_FRAME_S = 0.25


class Moment(Struct, frozen=True):
    """A run as it stands, for whoever shows it."""

    stage: str  # "sending" or "draining"
    books: Books
    elapsed_s: float  # in this stage
    sends_done: int  # of the plan's


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
    mode: Mode | None = None,
    seed: int = 0,
    patience: Patience | None = None,
    watch: Watch = lambda _: None,
    stop_early: bool = False,
) -> Played:
    """Send `plan`, learn what became of it, and return the books.

    Blocks. KeyboardInterrupt ends it at once and leaves nothing behind; with `stop_early`, the first
    Ctrl-C only ends the sending, and what was sent is still drained.
    """
    books = Books(plan.intents)
    generator = Generator(plan, to, books, retry, mode, seed)
    return _run(_drained(plan, to, generator, books, patience, watch, stop_early))


def send(
    plan: Plan,
    to: Target,
    books: Books,
    retry: Retry,
    *,
    mode: Mode | None = None,
    seed: int = 0,
    watch: Watch = lambda _: None,
) -> Generator:
    """Send `plan` into `books` and ask nothing afterwards; return the generator for its figures.

    For callers who learn elsewhere what became of each receipt. Blocks.
    """
    generator = Generator(plan, to, books, retry, mode, seed)

    async def sent() -> Generator:
        async with _shown("sending", books, generator, watch):
            await generator.run()
        return generator

    return _run(sent())


def _run(sent: Coroutine[None, None, T]) -> T:
    with (
        old_objects_left_alone(),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_or_fail(sent))


async def _or_fail(sent: Coroutine[None, None, T]) -> T:
    """Raise what a callback raised, which asyncio would only log, and then wait for ever."""
    sending = asyncio.ensure_future(sent)
    failures: list[BaseException] = []

    def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failures.append(context.get("exception") or RuntimeError(context["message"]))
        sending.cancel()

    asyncio.get_running_loop().set_exception_handler(fail)
    try:
        return await sending
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        raise


async def _drained(
    plan: Plan,
    to: Target,
    generator: Generator,
    books: Books,
    patience: Patience | None,
    watch: Watch,
    stop_early: bool,
) -> Played:
    with _stopped_by_interrupt(generator) if stop_early else contextlib.nullcontext():
        async with _shown("sending", books, generator, watch):
            await generator.run()
    async with _shown("draining", books, generator, watch):
        drain_s = await drain(plan, to, books, patience)
    return Played(books, generator.elapsed_s, drain_s, generator.connections_used)


@contextlib.asynccontextmanager
async def _shown(
    stage: str, books: Books, generator: Generator, watch: Watch
) -> AsyncIterator[None]:
    """Show a stage while it lasts, and once more at its end."""
    began = monotonic()

    def moment() -> Moment:
        return Moment(stage, books, monotonic() - began, generator.sends_done)

    async def show() -> None:
        while True:
            watch(moment())
            await asyncio.sleep(_FRAME_S)

    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
    watch(moment())


@contextlib.contextmanager
def _stopped_by_interrupt(generator: Generator) -> Iterator[None]:
    """Let Ctrl-C end the sending once; the next one is the usual one again."""
    earlier = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, earlier)
        generator.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


@contextlib.contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Keep the collector from walking what was planned in the midst of sending: it takes 50 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
