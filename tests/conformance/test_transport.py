"""The broker's transport on a real Valkey that goes away."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from gate_world import OwnValkey
from kombu import Connection, Consumer, Queue

from deploy.embedded.ports import free_port
from workers.contract import transport


def test_an_acknowledgement_that_fails_with_its_server_frees_its_place() -> None:
    """Else a consumer with a prefetch of one would ask for nothing more, and never hear again."""
    transport.use()
    port = free_port()
    valkey = OwnValkey("--port", str(port))
    try:
        with Connection(f"redis://127.0.0.1:{port}/0") as connection:
            channel, queue, got = connection.channel(), Queue("hints"), list[Any]()
            channel.basic_qos(0, 1, False)
            connection.Producer().publish({}, routing_key="hints", declare=[queue])
            with Consumer(channel, queue, callbacks=[lambda body, message: got.append(message)]):
                connection.drain_events(timeout=5)
                (message,) = got
                assert not channel.qos.can_consume()
                valkey.process.kill()
                valkey.process.wait()
                with pytest.raises(connection.connection_errors):
                    message.ack()
                assert channel.qos.can_consume()
                valkey.restart()
    finally:
        valkey.close()


def test_a_broker_that_was_demoted_is_left_by_who_publishes_and_who_consumes() -> None:
    """It lives on as a replica; who keeps to it hears and says nothing any more."""
    transport.use()
    port = free_port()
    valkey = OwnValkey("--port", str(port))
    try:
        with Connection(f"redis://127.0.0.1:{port}/0") as connection:
            producer, queue = connection.Producer(), Queue("hints")
            producer.publish({}, routing_key="hints", declare=[queue])
            with redis.Redis(port=port) as client:
                client.replicaof("127.0.0.1", "1")
            with pytest.raises(connection.connection_errors, match="replica"):
                producer.publish({}, routing_key="hints")
            with (
                Consumer(connection.channel(), queue, callbacks=[print]),
                pytest.raises(connection.connection_errors, match="replica"),
            ):
                connection.drain_events(timeout=5)
    finally:
        valkey.close()
