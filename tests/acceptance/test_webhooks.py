"""Whatever is decided or ordered reaches the gateway's endpoint, whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from standardwebhooks import Webhook

from deploy.cli import main
from deploy.embedded.cluster import Cluster
from tests.acceptance.driver import Driver, post, verify, wait_until_drained
from tests.integration.webhook_kit import Hit, Receiver, receiving

CAMPAIGN = Path(__file__).with_name("busy.toml")
GATEWAY = "dev"  # the cluster's own
LIVES = 10  # orders that are paid and cancelled after all
Tell = Callable[..., Any]


class Inbox:
    """What a gateway's receiver took. While it is shut, a post hangs, and is lost in the end."""

    def __init__(self) -> None:
        self.taken: list[Hit] = []
        self.hanging = 0
        self._open = threading.Event()
        self._open.set()

    def answer(self, hit: Hit) -> int:
        if not self._open.is_set():
            self.hanging += 1
            self._open.wait(20)
            return 500
        self.taken.append(hit)
        return 204

    @contextmanager
    def shut(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def events(self, kind: str) -> list[Any]:
        """The bodies whose type ends so, in the order of their coming."""
        return [hit.event for hit in self.taken if hit.event["type"].endswith(kind)]


def until(holds: Callable[[], object], what: str, within_s: float = 25) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Run a command on a cluster; return what it prints as JSON."""

    def run(cluster: Cluster, *arguments: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main((*arguments, "--data", str(cluster.data), "--json"))
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return json.loads(printed.out)

    return run


@pytest.mark.timeout(120)
def test_every_outcome_and_change_of_level_arrives_though_the_relay_dies(tell: Tell) -> None:
    """At least once, signed, and an intent's events in their order; who says 410 is let alone."""
    inbox = Inbox()
    with (
        receiving(inbox.answer) as receiver,
        receiving(lambda _: 410) as gone,
        Cluster(workers=1, campaign=CAMPAIGN) as cluster,
    ):
        made = tell(cluster, "webhook", "register", GATEWAY, receiver.url)
        left = tell(cluster, "webhook", "register", GATEWAY, gone.url)
        skus = ["hot", "warm", "unheard-of"]  # confirmed at once; to be paid; refused
        with Driver(cluster.api_url, cluster.api_key, skus=skus, threads=2) as driver:
            driver.wait_for_receipts(60)
            until(lambda: inbox.taken, "nothing arrived")
            with inbox.shut():
                until(lambda: inbox.hanging, "no post was under way")
                kill_relay(cluster)
            live(cluster)
            driver.wait_for_receipts(60)
        wait_until_drained(cluster.dsn)

        expected = event_ids(cluster.dsn)
        until(lambda: arrived(inbox) >= expected, "events are missing")
        assert arrived(inbox) == expected, "nothing is told that did not happen"
        in_order(inbox)

        tell(cluster, "level", "close", "--reason", "a drill")
        until(lambda: "closed" in levels_told(inbox), "the order was not told")
        tell(cluster, "level", "open")
        until(lambda: levels_told(inbox)[-1] != "closed", "its end was not told")

        for hit in inbox.taken:
            is_a_signed_cloud_event(hit, made["secret"])
        is_let_alone(tell(cluster, "webhook", "list"), left["endpoint_id"], gone, len(expected))
        tell_whole_story(tell, cluster, receiver.url)
        verify(driver.history, cluster.dsn)


def kill_relay(cluster: Cluster) -> None:
    """Kill it in the middle of its posts, wait for the next, and let the dead one's leases end."""
    (before,) = cluster.processes()["relay"]
    os.kill(before, signal.SIGKILL)
    with psycopg.connect(cluster.dsn, autocommit=True) as connection:
        expired = connection.execute(
            "UPDATE tidegate.outbox SET due_at = now() "
            "WHERE settled_at IS NULL AND lease_id IS NOT NULL"
        )
        assert expired.rowcount, "it had something in hand"
    until(lambda: cluster.processes().get("relay", [before]) != [before], "no other relay came")


def live(cluster: Cluster) -> None:
    """Pay some orders, and cancel them."""
    with psycopg.connect(cluster.dsn, autocommit=True) as connection:
        awaiting = f"SELECT order_id FROM audit.orders WHERE payable > 0 LIMIT {LIVES}"
        until(lambda: len(connection.execute(awaiting).fetchall()) == LIVES, "too few orders")
        orders = connection.execute(awaiting).fetchall()
    netloc = urlsplit(cluster.api_url).netloc
    headers = {"Authorization": f"Bearer {cluster.api_key}", "Content-Type": "application/json"}
    for (order_id,) in orders:
        paid = json.dumps({"payment_reference": "p-1", "amount": 1800})
        for deed, body in (("payment", paid), ("cancel", "{}")):
            status, answer = post(netloc, f"/v1/orders/{order_id}/{deed}", body, headers)
            assert status == 200, answer


def event_ids(dsn: str) -> set[str]:
    """The ids of all that happened to intents, from the tables."""
    with psycopg.connect(dsn) as connection:
        outcomes = connection.execute("SELECT intent_id, status FROM audit.intents").fetchall()
        ends = connection.execute(
            "SELECT order_id FROM audit.orders WHERE status = 'cancelled'"
        ).fetchall()
    assert {status for _, status in outcomes} == {"committed", "refused"}
    assert len(ends) == LIVES
    return {f"evt_{intent_id.hex}_{status}" for intent_id, status in outcomes} | {
        f"evt_{order_id.hex}_{word}" for (order_id,) in ends for word in ("confirmed", "cancelled")
    }


def arrived(inbox: Inbox) -> set[str]:
    """The ids of the events of intents that were taken."""
    ids = {hit.webhook_id for hit in inbox.taken}
    return {event_id for event_id in ids if not event_id.startswith("evt_level_")}


def in_order(inbox: Inbox) -> None:
    """Whatever came twice: what came first came in the order in which it happened."""
    words: dict[str, list[str]] = {}
    for event_id in dict.fromkeys(hit.webhook_id for hit in inbox.taken):
        _, subject, word = event_id.split("_", 2)
        if subject != "level":
            words.setdefault(subject, []).append(word)
    lives = [told for told in words.values() if len(told) > 1]
    assert lives == [["committed", "confirmed", "cancelled"]] * LIVES


def levels_told(inbox: Inbox) -> list[str]:
    """The levels that were told, in their order."""
    return [event["data"]["level"] for event in inbox.events("level.changed")]


def is_a_signed_cloud_event(hit: Hit, secret: str) -> None:
    """Verified by the official library; CloudEvents 1.0 in structured mode."""
    event = Webhook(secret).verify(hit.body, hit.headers)
    assert hit.headers["content-type"].startswith("application/cloudevents+json")
    assert (event["specversion"], event["id"]) == ("1.0", hit.webhook_id)
    assert event["source"] == "/tidegate"
    assert event["datacontenttype"] == "application/json"
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    if event["type"] == "tidegate.level.changed":
        assert "subject" not in event
    else:
        assert event["data"]["intent_id"] == event["subject"] == str(UUID(event["subject"]))


def is_let_alone(listed: list[Any], endpoint_id: int, gone: Receiver, events: int) -> None:
    """An endpoint that answered 410 was disabled, and told little before."""
    (found,) = [each for each in listed if each["endpoint_id"] == endpoint_id]
    assert found["disabled_reason"] == "gone"
    assert 0 < len(gone.hits) < events


def tell_whole_story(tell: Tell, cluster: Cluster, url: str) -> None:
    """An operator sees of an intent what its gateway was told."""
    with psycopg.connect(cluster.dsn) as connection:
        cancelled = "SELECT order_id FROM audit.orders WHERE status = 'cancelled' LIMIT 1"
        ((order_id,),) = connection.execute(cancelled).fetchall()
    told = tell(cluster, "intent", "explain", str(order_id))["deliveries"]
    assert [
        (each["event"].rpartition(".")[2], each["state"]) for each in told if each["url"] == url
    ] == [
        ("committed", "delivered"),
        ("confirmed", "delivered"),
        ("cancelled", "delivered"),
    ]
