"""Virtual time: actors take turns, and time passes only while all of them rest.

Production code waits in the middle of a call, so each actor has a thread of its own; but one runs at
a time, and who is next follows from the agenda alone. So a run is as repeatable as its luck.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Killed(BaseException):
    """The process that an actor stands for is dead: no handler of an error may run for it."""


class Stage:
    """The clock, the agenda and the luck of one run."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.luck = Random(seed)
        self.acting: Actor | None = None
        self.actors: list[Actor] = []
        self.errors: list[BaseException] = []  # that nobody caught
        self.closing = False
        self.next: Actor | None = None  # whom the step just done has woken
        self.turn = _held_lock()  # of who runs the stage
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._places = itertools.count()
        self._until = 0.0

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something then; who was noted first goes first."""
        heapq.heappush(self._agenda, (when, next(self._places), action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something so much later."""
        self.at(self.now + seconds, action)

    def spawn(self, name: str, work: Callable[[], object]) -> Actor:
        """Begin an actor's life, at once."""
        actor = Actor(self, name, work)
        self.actors.append(actor)
        self.at(self.now, actor.resume)
        return actor

    def sleep(self, seconds: float) -> None:
        """Let time pass for whoever acts; the others go on."""
        actor, when = self.acting, self.now + seconds
        assert actor is not None, "only an actor sleeps"
        if not actor.killed and when <= self._until and not self._is_due(when):
            self.now = when  # nobody else has anything to do until then
            return
        self.at(when, actor.resume)
        actor.rest()

    def _is_due(self, when: float) -> bool:
        return bool(self._agenda) and self._agenda[0][0] <= when

    def run(self, until: float) -> None:
        """Go on until then; raises what an actor or a step raised."""
        self._until = until
        first = self.pick()
        if first is not None:
            first.turn.release()
            self.turn.acquire()
        if self.errors:
            raise self.errors[0]
        self.now = until

    def pick(self) -> Actor | None:
        """Take steps of the agenda until one wakes an actor; None: all is over.

        Called by the thread that rests, which so hands over to the next one directly.
        """
        self.acting = self.next = None
        try:
            while not self.errors and self._is_due(self._until):
                self.now, _, action = heapq.heappop(self._agenda)
                action()
                if self.next is not None:
                    self.acting = self.next
                    return self.next
        except BaseException as error:
            self.errors.append(error)
        return None

    def close(self) -> None:
        """Let every actor's thread end."""
        self.closing = True
        for actor in self.actors:
            if not actor.over:
                actor.killed = True
                self.acting = actor
                actor.turn.release()
                self.turn.acquire()


class Actor:
    """A process, or a thread of one: runs until it rests."""

    def __init__(self, stage: Stage, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.killed = False
        self.over = False
        self.turn = _held_lock()
        self._stage = stage
        self._work = work
        _thread.start_new_thread(self._live, ())

    def _live(self) -> None:
        stage = self._stage
        self.turn.acquire()
        try:
            if not self.killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:
            stage.errors.append(error)
        self.over = True
        successor = None if stage.closing else stage.pick()
        (stage if successor is None else successor).turn.release()

    def resume(self) -> None:
        """Let it act next, until it rests; called by a step of the agenda."""
        if not self.over:
            self._stage.next = self

    def rest(self) -> None:
        """Let others act until somebody resumes this one; called by itself."""
        if not self.killed:
            successor = self._stage.pick()
            if successor is not self:
                (self._stage if successor is None else successor).turn.release()
                self.turn.acquire()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        """End it where it rests, as by SIGKILL."""
        self.killed = True
        self._stage.at(self._stage.now, self.resume)


def _held_lock() -> _thread.LockType:
    """Return a lock that its first taker waits for: cheaper to hand over than a semaphore."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


class Mailbox(Generic[T]):
    """Items, and who waits for them."""

    def __init__(self, stage: Stage) -> None:
        self.items: deque[T] = deque()
        self._stage = stage
        self._waiting: list[Actor] = []

    def put(self, item: T) -> None:
        """Leave an item; who waits longest is woken."""
        self.items.append(item)
        self._waiting = [actor for actor in self._waiting if not actor.killed]
        if self._waiting:
            self._stage.at(self._stage.now, self._waiting.pop(0).resume)

    def get(self) -> T:
        """Take the oldest item, when there is one."""
        while not self.items:
            actor: Any = self._stage.acting
            self._waiting.append(actor)
            actor.rest()
        return self.items.popleft()
