"""The publisher: hints gather while one is sent, and a broker that is away costs hints only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import pytest

from producer import publisher
from producer.publisher import Publisher

IDS = [UUID(int=n) for n in range(1_000)]


class _Broker:
    """Takes hints; may be made to wait or to fail."""

    def __init__(self) -> None:
        self.hints: list[list[UUID]] = []
        self.open = threading.Event()
        self.open.set()
        self.sending = threading.Event()
        self.failures = 0

    def send(self, intent_ids: Sequence[UUID]) -> None:
        self.sending.set()
        self.open.wait(10)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.hints.append(list(intent_ids))

    @property
    def received(self) -> list[UUID]:
        return [intent_id for hint in self.hints for intent_id in hint]


@pytest.fixture
def broker() -> _Broker:
    return _Broker()


@pytest.fixture
def publishing(broker: _Broker) -> Iterator[Publisher]:
    made = Publisher(broker.send, batch_max=10)
    made.start()
    yield made
    broker.open.set()
    made.close(5)


def _comes_true(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not holds() and time.monotonic() < until:
        time.sleep(0.002)
    return holds()


def test_what_is_offered_is_sent_in_order(broker: _Broker, publishing: Publisher) -> None:
    """One thread, one order."""
    publishing.offer(IDS[:3])
    publishing.offer(IDS[3:5])
    assert _comes_true(lambda: broker.received == IDS[:5])


def test_offering_never_waits_for_the_broker(broker: _Broker, publishing: Publisher) -> None:
    """The reply to the user does not wait for a hint."""
    broker.open.clear()
    begun = time.monotonic()
    for number in range(100):
        publishing.offer([IDS[number]])
    assert time.monotonic() - begun < 0.5
    assert broker.hints == []


def test_ids_gather_while_a_hint_is_being_sent(broker: _Broker, publishing: Publisher) -> None:
    """Hints are bounded in number by the broker's speed, and in size by the batch."""
    broker.open.clear()
    publishing.offer(IDS[:1])
    assert broker.sending.wait(5)
    for intent_id in IDS[1:26]:
        publishing.offer([intent_id])
    broker.open.set()
    assert _comes_true(lambda: broker.received == IDS[:26])
    assert [len(hint) for hint in broker.hints] == [1, 10, 10, 5]


def test_a_hint_that_cannot_be_sent_is_counted_and_the_next_is_sent(
    broker: _Broker, publishing: Publisher
) -> None:
    """Nobody retries: the redispatcher brings its intents back."""
    broker.failures = 1
    publishing.offer(IDS[:1])
    assert _comes_true(lambda: publishing.failed == 1)
    publishing.offer(IDS[1:2])
    assert _comes_true(lambda: broker.hints == [IDS[1:2]])


def test_while_the_broker_is_away_memory_is_bounded_and_the_oldest_go(
    broker: _Broker, publishing: Publisher
) -> None:
    """With so many open intents every claim comes out full: their hints are worth nothing."""
    broker.open.clear()
    publishing.offer(IDS[:1])
    assert broker.sending.wait(5)
    many = [UUID(int=n) for n in range(1, publisher.WAITING_MAX + 101)]
    publishing.offer(many)
    assert len(publishing._waiting) == publisher.WAITING_MAX
    broker.open.set()
    assert _comes_true(lambda: broker.hints != [] and broker.hints[-1][-1] == many[-1])
    assert broker.received[1:] == many[100:]


@pytest.fixture
def windowed(broker: _Broker) -> Iterator[Publisher]:
    made = Publisher(broker.send, batch_max=10, unheard_max=2, hears=lambda: True)
    made.start()
    yield made
    made.close(5)


def _keys(ids: Sequence[UUID]) -> list[bytes]:
    return [intent_id.bytes for intent_id in ids]


def test_a_small_hint_waits_while_another_is_unheard(broker: _Broker, windowed: Publisher) -> None:
    """The next one stands for all that gathered until a worker had come round."""
    windowed._patience_s = 60.0
    windowed.offer(IDS[:1])
    assert _comes_true(lambda: broker.hints == [IDS[:1]])
    windowed.offer(IDS[1:2])
    time.sleep(0.05)
    assert broker.hints == [IDS[:1]]
    windowed.heard(_keys(IDS[:1]))
    assert _comes_true(lambda: broker.hints[1:] == [IDS[1:2]])


def test_a_hint_worth_a_batch_goes_at_once_as_far_as_the_window_lets(
    broker: _Broker, windowed: Publisher
) -> None:
    """Several workers are kept busy, and no more hints are under way than that takes."""
    windowed._patience_s = 60.0
    worth = windowed._worth
    assert 1 < worth < 10
    windowed.offer(IDS[:worth])
    assert _comes_true(lambda: len(broker.hints) == 1)
    windowed.offer(IDS[worth : 2 * worth])
    assert _comes_true(lambda: len(broker.hints) == 2)
    windowed.offer(IDS[2 * worth : 3 * worth])
    time.sleep(0.05)
    assert len(broker.hints) == 2
    windowed.heard(_keys(IDS[worth : 2 * worth]))
    assert _comes_true(lambda: broker.hints[2:] == [IDS[2 * worth : 3 * worth]])


def test_what_was_decided_meanwhile_is_hinted_at_no_more(
    broker: _Broker, windowed: Publisher
) -> None:
    """A claim takes the oldest along, named or not."""
    windowed._patience_s = 60.0
    windowed.offer(IDS[:1])
    assert _comes_true(lambda: len(broker.hints) == 1)
    windowed.offer(IDS[1:2])
    windowed.heard(_keys(IDS[1:2]))
    windowed.heard(_keys(IDS[:1]))
    windowed.offer(IDS[2:3])
    assert _comes_true(lambda: broker.hints[1:] == [IDS[2:3]])


def test_a_hint_that_is_never_heard_makes_room_in_time_and_later_each_time(
    broker: _Broker, windowed: Publisher
) -> None:
    """A dead worker or a lost announcement costs a moment, and no storm of hints."""
    for number in range(4):
        windowed.offer(IDS[number : number + 1])
        assert _comes_true(lambda n=number: len(broker.hints) > n)  # type: ignore[misc]
    assert broker.received == IDS[:4]
    assert windowed._patience_s == 8 * publisher.UNHEARD_S
    windowed.heard(_keys(IDS[3:4]))
    assert windowed._patience_s == publisher.UNHEARD_S


def test_without_announcements_there_is_no_window(broker: _Broker) -> None:
    """Who cannot hear cannot wait to be heard."""
    made = Publisher(broker.send, batch_max=10, unheard_max=1, hears=lambda: False)
    made.start()
    for number in range(5):
        made.offer(IDS[number : number + 1])
        assert _comes_true(lambda n=number: len(broker.hints) > n)  # type: ignore[misc]
    assert made._patience_s == publisher.UNHEARD_S
    made.close(5)


def test_closing_sends_what_waits(broker: _Broker) -> None:
    """A drained process leaves no hint behind, if the broker takes them in time."""
    made = Publisher(broker.send, batch_max=10)
    broker.open.clear()
    made.start()
    made.offer(IDS[:35])
    threading.Timer(0.05, broker.open.set).start()
    made.close(5)
    assert broker.received == IDS[:35]
    assert not made._thread.is_alive()


def test_closing_waits_no_longer_than_it_may(broker: _Broker) -> None:
    """A dead broker keeps no process alive."""
    made = Publisher(broker.send, batch_max=10)
    broker.open.clear()
    made.start()
    made.offer(IDS[:5])
    begun = time.monotonic()
    made.close(0.1)
    assert time.monotonic() - begun < 1
    broker.open.set()
