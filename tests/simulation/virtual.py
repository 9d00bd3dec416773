"""Virtual time: actors take turns, and time passes only while all of them rest.

Production code waits in the middle of a call, so each actor has a thread of its own; but one runs at
a time, and who is next follows from the agenda alone. So a run is as repeatable as its luck.
"""

from __future__ import annotations

import heapq
import itertools
import threading
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
        self.errors: list[BaseException] = []  # of actors, that nobody caught
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._places = itertools.count()
        self._until = 0.0
        self.turn = threading.Semaphore(0)

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
        """Go on until then; raises what an actor raised."""
        self._until = until
        while self._is_due(until):
            self.now, _, action = heapq.heappop(self._agenda)
            action()
            if self.errors:
                raise self.errors[0]
        self.now = until

    def close(self) -> None:
        """Let every actor's thread end."""
        for actor in self.actors:
            actor.killed = True
            actor.resume()
            actor.thread.join(10)


class Actor:
    """A process, or a thread of one: runs until it rests."""

    def __init__(self, stage: Stage, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.killed = False
        self.over = False
        self._stage = stage
        self._work = work
        self._turn = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._live, name=name, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        self._turn.acquire()
        try:
            if not self.killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:
            self._stage.errors.append(error)
        finally:
            self.over = True
            self._stage.turn.release()

    def resume(self) -> None:
        """Let it act until it rests; called by the stage."""
        if self.over:
            return
        self._stage.acting = self
        self._turn.release()
        self._stage.turn.acquire()
        self._stage.acting = None

    def rest(self) -> None:
        """Let others act until somebody resumes this one; called by itself."""
        if not self.killed:
            self._stage.turn.release()
            self._turn.acquire()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        """End it where it rests, as by SIGKILL."""
        self.killed = True
        self._stage.at(self._stage.now, self.resume)


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
