"""The comparison: a kombu consumer as many run it, under kills, judged by the same rule.

Messages are put into a Redis queue of kombu's, and a consumer with a prefetch of one notes each in a
file and acknowledges it afterwards. It is killed again and again, and each time started again. What
kombu takes off its list it records as unacknowledged one round trip later: whoever dies between the two
takes a message along. Here the receipt is the broker's word that it has the message.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import Signals
from typing import Final

import kombu
import redis

import deploy
from deploy.chaos.screen import Picture, Screen
from deploy.chaos.verdict import Verdict
from deploy.embedded.cluster import Cluster

QUEUE: Final = "plain"
_ROOT: Final = Path(deploy.__file__).resolve().parents[1]
_MESSAGES_PER_S: Final = 400  # more than a consumer that dies all the time can take
_LONGER_MAX: Final = 4  # times as long, where by chance no kill has lost anything yet
_LIFE_S: Final = (0.002, 0.03)  # from its first message on
_DRAIN_S: Final = 30.0
_AWAITED_S: Final = 5.0
_LOOK_S: Final = 0.002
_SHOW_S: Final = 0.2


def perform(seed: int, duration_s: float, folder: Path, screen: Screen) -> Verdict:
    """Run it and judge it: `clean` says that it lost messages, as was expected of it."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"plain-kombu/{seed}")
    work = folder / "done.txt"
    work.write_bytes(b"")  # what an earlier run did was not done by this one
    with Cluster(servers_only=True) as cluster:
        sent = _send(cluster.valkey_url, round(_MESSAGES_PER_S * duration_s))
        kills = _kill_consumers(cluster.valkey_url, work, chance, duration_s, screen, sent)
        _drain(cluster.valkey_url, work, screen)
        parked = _parked(cluster.valkey_url)
    return judge(seed, duration_s, sent, work.read_text().split(), parked, kills, str(folder))


def judge(
    seed: int,
    duration_s: float,
    sent: Sequence[str],
    done: Sequence[str],
    parked: int,
    kills: int,
    evidence: str = "",
) -> Verdict:
    """Compare what the broker took with what came out: lost is what is neither done nor parked."""
    counts = Counter(done)
    lost = _missing(sent, done) - parked
    doubled = sum(count > 1 for count in counts.values())
    said = (
        f"{'loses, as expected' if lost > 0 else 'lost NOTHING, which is not what was expected'}: "
        f"{lost} of {len(sent):,} messages gone without a trace after {kills} kills, {parked} more "
        f"parked as unacknowledged, {doubled} done twice"
    )
    figures = {"sent": len(sent), "lost": lost, "parked": parked, "doubled": doubled}
    return Verdict(
        scenario="plain-kombu",
        seed=seed,
        duration_s=duration_s,
        clean=lost > 0,
        kills=kills,
        faults={"kill": kills},
        figures={name: float(count) for name, count in figures.items()},
        evidence=evidence,
        said=said,
    )


def _missing(sent: Sequence[str], done: Sequence[str]) -> int:
    return len(set(sent).difference(done))


def consume(url: str, work: Path) -> None:
    """Be the consumer, until killed: note each message, then acknowledge it."""
    fd = os.open(work, os.O_WRONLY | os.O_APPEND)

    def handle(body: object, message: kombu.Message) -> None:
        os.write(fd, f"{body}\n".encode())
        message.ack()

    with kombu.Connection(url) as connection:
        consumer = kombu.Consumer(connection, [_queue()], callbacks=[handle], prefetch_count=1)
        with consumer:
            while True:
                connection.drain_events()


def _queue() -> kombu.Queue:
    return kombu.Queue(QUEUE, kombu.Exchange(QUEUE), routing_key=QUEUE)


def _send(url: str, count: int) -> list[str]:
    sent = [f"m-{n}" for n in range(count)]
    with kombu.Connection(url) as connection, connection.Producer() as producer:
        for one in sent:
            producer.publish(one, exchange=QUEUE, routing_key=QUEUE, declare=[_queue()])
    return sent


def _kill_consumers(
    url: str,
    work: Path,
    chance: random.Random,
    duration_s: float,
    screen: Screen,
    sent: Sequence[str],
) -> int:
    kills, lost = 0, 0
    began = time.monotonic()
    while (share := (time.monotonic() - began) / duration_s) < 1 or (
        lost <= 0 and share < _LONGER_MAX
    ):
        with _consumer(url, work) as consumer:
            _await_work(work, work.stat().st_size, consumer)
            time.sleep(chance.uniform(*_LIFE_S))
            consumer.send_signal(Signals.SIGKILL)
        kills += 1
        if share >= 1:  # at least: what was done and not acknowledged counts as parked
            lost = _missing(sent, work.read_text().split()) - _parked(url)
        screen.show(Picture(stage="faults", share=min(1.0, share), faults=kills, kills=kills))
    return kills


def _await_work(work: Path, before: int, consumer: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + _AWAITED_S  # there may be no more messages
    while work.stat().st_size == before and consumer.poll() is None:
        if time.monotonic() > give_up_at:
            return
        time.sleep(_LOOK_S)


def _drain(url: str, work: Path, screen: Screen) -> None:
    """Leave a last consumer alone until the queue is empty."""
    give_up_at = time.monotonic() + _DRAIN_S
    with _consumer(url, work) as consumer, redis.Redis.from_url(url) as client:
        while client.llen(QUEUE) and time.monotonic() < give_up_at:
            screen.show(Picture(stage="draining"))
            time.sleep(_SHOW_S)
        time.sleep(_SHOW_S)  # the message in hand
        consumer.send_signal(Signals.SIGKILL)


def _parked(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.llen(QUEUE)) + int(client.hlen("unacked"))


@contextlib.contextmanager
def _consumer(url: str, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a consumer; it is gone at the end of the block."""
    program = [sys.executable, "-m", __name__, url, str(work)]
    started = subprocess.Popen(program, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    try:
        yield started
    finally:
        started.kill()
        started.wait()


if __name__ == "__main__":
    consume(sys.argv[1], Path(sys.argv[2]))
