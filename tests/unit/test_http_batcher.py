"""The batcher: every item is answered, in order, in time, with what can be known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from producer.batcher import Batcher, Bounds

FULL, UNSENT, UNHEARD = "full", "unsent", "unheard"
Scenario = Callable[[], Awaitable[None]]


class Excuses:
    def full(self, item: int, wait_ms: int) -> str:
        return FULL

    closing = full

    def unsent(self) -> str:
        return UNSENT

    def unheard(self) -> str:
        return UNHEARD


class Echo:
    """Answers with what it was given; works when `go` is set, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.fault: Exception | None = None
        self.closed = 0

    def submit(self, batch: Sequence[int]) -> list[str]:
        self.batches.append(list(batch))
        assert self.go.wait(10)
        if self.fault is not None:
            raise self.fault
        return [str(item) for item in batch]

    def close(self) -> None:
        self.closed += 1


def batcher(work: Echo, **bounds: int) -> Batcher[int, str]:
    given = {"lanes": 1, "batch_max": 100, "pending_max": 1_000, "timeout_ms": 5_000, **bounds}
    return Batcher("test", lambda: work, Excuses(), Bounds(**given))


def run(scenario: Callable[[Echo], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(Echo()), timeout=20))  # type: ignore[arg-type]


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.001)


def test_what_arrives_in_one_turn_of_the_loop_is_one_batch() -> None:
    """No timer: an idle lane takes what is there, and nobody waits for more."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)
        answers = await asyncio.gather(*[lane.submit(n) for n in range(10)])
        assert answers == [str(n) for n in range(10)]
        assert work.batches == [list(range(10))]
        lane.close()

    run(scenario)


def test_what_arrives_while_a_batch_is_written_is_the_next_batch() -> None:
    """Batches grow with the load by themselves, up to their bound, in the order of arrival."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work, batch_max=4)
        work.go.clear()
        first = lane.submit(0)
        await until(lambda: bool(work.batches))
        rest = [lane.submit(n) for n in range(1, 8)]
        work.go.set()
        assert await asyncio.gather(first, *rest) == [str(n) for n in range(8)]
        assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
        lane.close()

    run(scenario)


def test_every_lane_works_at_the_same_time() -> None:
    """While one lane waits for its commit, another takes what arrives."""

    async def scenario(work: Echo) -> None:
        lanes = batcher(work, lanes=2)
        work.go.clear()
        answers = [lanes.submit(1)]
        await until(lambda: len(work.batches) == 1)
        answers.append(lanes.submit(2))
        await until(lambda: len(work.batches) == 2)
        work.go.set()
        assert await asyncio.gather(*answers) == ["1", "2"]
        lanes.close()

    run(scenario)


def test_a_small_batch_waits_for_the_lane_that_is_busy() -> None:
    """Two small batches cost twice as much as one; what is worth a lane gets it at once."""

    async def scenario(work: Echo) -> None:
        lanes = batcher(work, lanes=2, worth=3)
        work.go.clear()
        answers = [lanes.submit(0)]
        await until(lambda: len(work.batches) == 1)
        answers += [lanes.submit(1), lanes.submit(2)]
        await asyncio.sleep(0.02)
        assert work.batches == [[0]]
        answers.append(lanes.submit(3))
        await until(lambda: len(work.batches) == 2)
        assert work.batches[1] == [1, 2, 3]
        work.go.set()
        assert await asyncio.gather(*answers) == ["0", "1", "2", "3"]
        lanes.close()

    run(scenario)


def test_a_lane_that_hangs_does_not_hold_up_a_small_batch_for_long() -> None:
    """The other lane takes what has waited for more than a moment."""

    async def scenario(work: Echo) -> None:
        lanes = batcher(work, lanes=2, worth=3)
        work.go.clear()
        hung = lanes.submit(0)
        await until(lambda: len(work.batches) == 1)
        held_up = lanes.submit(1)
        await until(lambda: len(work.batches) == 2)  # within a tick, though nobody came
        work.go.set()
        assert await asyncio.gather(hung, held_up) == ["0", "1"]
        lanes.close()

    run(scenario)


def test_a_lane_rests_after_a_batch_as_long_as_its_answers_say() -> None:
    """Those who finish what it began come to their turn; a single item waits for next to nothing."""

    async def scenario(work: Echo) -> None:
        bounds = Bounds(1, 10, 1_000, 5_000)

        def rest_s(answers: Sequence[str]) -> float:
            return 0.02 * len(answers)

        lane = Batcher("test", lambda: work, Excuses(), bounds, rest_s=rest_s)
        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.gather(*[lane.submit(n) for n in range(10)])
        answered = clock()
        await lane.submit(10)
        assert clock() - began >= 0.2
        assert answered - began < 0.1  # the answers do not wait for the rest
        began = clock()
        await lane.submit(11)
        assert clock() - began < 0.1
        lane.close()

    run(scenario)


def test_one_who_fails_to_hear_leaves_no_other_unanswered() -> None:
    """Whatever a teller raises, its neighbours of the batch are told."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)

        def fail(answer: str) -> None:
            raise ValueError(answer)

        lane.submit_and_tell(0, fail)
        assert await lane.submit(1) == "1"
        assert work.batches == [[0, 1]]
        lane.close()

    run(scenario)


def test_many_are_answered_together_and_in_their_order() -> None:
    """One future for all of them; also where there is none."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work, batch_max=3)
        assert await lane.submit_many(range(10)) == [str(n) for n in range(10)]
        assert await lane.submit_many([]) == []
        full = batcher(work, pending_max=4)
        assert await full.submit_many(range(6)) == ["0", "1", "2", "3", FULL, FULL]
        lane.close()
        full.close()

    run(scenario)


def test_more_than_may_wait_are_refused_at_once() -> None:
    """The bound on waiting holds, and who is beyond it does not wait to hear so."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work, pending_max=3)
        work.go.clear()
        taken = lane.submit(0)
        await until(lambda: bool(work.batches))
        waiting = [lane.submit(n) for n in range(1, 4)]
        refused = lane.submit(4)
        assert refused.done()
        assert refused.result() == FULL
        work.go.set()
        assert await asyncio.gather(taken, *waiting) == ["0", "1", "2", "3"]
        lane.close()

    run(scenario)


def test_a_hung_lane_leaves_nobody_unanswered() -> None:
    """What was in its hands is unheard of; what never left the queue was surely not done."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work, timeout_ms=200)
        work.go.clear()
        taken = lane.submit(0)
        await until(lambda: bool(work.batches))
        waiting = [lane.submit(n) for n in (1, 2)]
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(taken, *waiting) == [UNHEARD, UNSENT, UNSENT]
        assert asyncio.get_running_loop().time() - began < 0.4
        work.go.set()  # the lane comes back, its late answer is nobody's, and it works on
        assert await lane.submit(3) == "3"
        assert work.batches == [[0], [3]], "what timed out in the queue never reached a lane"
        lane.close()

    run(scenario)


def test_a_fault_in_the_work_is_an_unheard_answer_and_a_fresh_start() -> None:
    """Whatever work raises, its batch is answered, its connections are dropped, and it goes on."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)
        work.fault = RuntimeError("the server said something odd")
        assert await lane.submit(1) == UNHEARD
        assert work.closed == 1
        work.fault = None
        assert await lane.submit(2) == "2"
        lane.close()

    run(scenario)


def test_work_that_cannot_be_made_leaves_items_undone() -> None:
    """A lane that cannot start has surely done nothing, and tries again with the next batch."""

    async def scenario(work: Echo) -> None:
        made: list[Echo | Exception] = [OSError("no socket"), work]

        def make() -> Echo:
            one = made.pop(0)
            if isinstance(one, Exception):
                raise one
            return one

        lane = Batcher("test", make, Excuses(), Bounds(1, 100, 1_000, 5_000))
        assert await lane.submit(1) == UNSENT
        assert await lane.submit(2) == "2"
        lane.close()

    run(scenario)


def test_too_few_answers_are_no_answers() -> None:
    """An answer that could be another item's is not given to anyone."""

    class Short(Echo):
        def submit(self, batch: Sequence[int]) -> list[str]:
            return super().submit(batch)[1:]

    async def scenario(work: Echo) -> None:
        lane = batcher(Short())
        assert await asyncio.gather(lane.submit(1), lane.submit(2)) == [UNHEARD, UNHEARD]
        lane.close()

    run(scenario)


def test_draining_answers_everything_taken_and_takes_nothing_more() -> None:
    """At shutdown what was taken is finished; what comes later is refused."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work, batch_max=2)
        work.go.clear()
        answers = [lane.submit(n) for n in range(5)]
        await until(lambda: bool(work.batches))
        draining = asyncio.ensure_future(lane.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()
        assert await lane.submit(9) == FULL
        work.go.set()
        await draining
        assert [answer.result() for answer in answers] == [str(n) for n in range(5)]
        lane.close()
        assert work.closed == 1

    run(scenario)


def test_closing_without_draining_still_answers() -> None:
    """A process that must end now says what it can: undone, or unheard."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)
        work.go.clear()
        taken = lane.submit(0)
        await until(lambda: bool(work.batches))
        waiting = lane.submit(1)
        threading.Timer(0.1, work.go.set).start()
        lane.close()
        assert (taken.result(), waiting.result()) == (UNHEARD, UNSENT)

    run(scenario)


def test_an_abandoned_wait_spoils_no_other() -> None:
    """A caller that leaves cancels its own future only."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)
        leaves, stays = lane.submit(1), lane.submit(2)
        leaves.cancel()
        assert await stays == "2"
        with pytest.raises(asyncio.CancelledError):
            await leaves
        lane.close()

    run(scenario)


def test_the_wait_for_a_lane_is_measured() -> None:
    """`wait_ms` grows with the oldest that waits, and is what a refusal's Retry-After rests on."""

    async def scenario(work: Echo) -> None:
        lane = batcher(work)
        work.go.clear()
        taken = lane.submit(0)
        await until(lambda: bool(work.batches))
        waiting = lane.submit(1)
        await asyncio.sleep(0.1)
        assert lane.wait_ms >= 90
        work.go.set()
        await asyncio.gather(taken, waiting)
        lane.close()

    run(scenario)
