"""RabbitMQ as the broker: what its queues are, and kombu's transport made to keep in step.

Queues are quorum queues, declared by whoever looks at them or consumes, always with the same
arguments: RabbitMQ refuses a queue that is there with others. Each publish is confirmed: RabbitMQ
answers when the queue has written it down.

py-amqp waits for any answer as long as it takes, so a broker that has stopped would hold its caller
for ever; and it takes the next confirmation that comes for the one it waits for, so after a wait that
failed (by time, or because the message had no queue to go to) a late one could confirm another hint.
Here every wait has an end, and a connection on which one failed is given up at once. Kombu's pool
gives it up as well, but says goodbye first, which a stopped broker would not answer either.
"""

from __future__ import annotations

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES, pyamqp

# Of a message that each time came back because its worker was killed. Its intents stay open and are
# hinted at again; of the intents that kill a worker each time, the claims tell.
DELIVERIES_MAX: Final = 5
# A peer that vanished without a word is given up after two of them, and its hints go to others.
HEARTBEAT_S: Final = 10

QUEUE_ARGUMENTS: Final = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES_MAX}


def speaks(broker_url: str) -> bool:
    """Tell whether this broker is a RabbitMQ."""
    return broker_url.startswith(("amqp://", "amqps://"))


def options(timeout_s: float) -> dict[str, object]:
    """Return the transport's options; `timeout_s` is for each answer of the broker."""
    return {
        "confirm_publish": True,
        "answer_timeout_s": timeout_s,
        "interval_start": 0.1,  # between attempts to connect within the timeout; 2 s otherwise
        "interval_step": 0.1,
    }


class Channel(pyamqp.Channel):  # type: ignore[misc]
    """Waits for an answer only so long, and gives up its connection when none came."""

    def wait(self, method: Any, callback: Any = None, timeout: Any = None, **more: Any) -> Any:
        """Wait for one of these methods; raises what comes instead of it, or TimeoutError."""
        connection = self.connection
        limit_s = timeout or getattr(connection, "answer_timeout_s", None)
        try:
            return super().wait(method, callback, limit_s, **more)
        except Exception:
            if connection is not None:
                connection.collect()
            raise


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """Knows how long its channels wait."""

    Channel = Channel

    def __init__(self, *, answer_timeout_s: float | None = None, **options: Any) -> None:
        self.answer_timeout_s = answer_timeout_s
        super().__init__(**options)

    def wait(self, method: Any, callback: Any = None, timeout: Any = None, **more: Any) -> Any:
        """Wait as a channel does; it is the goodbye that is waited for."""
        return super().wait(method, callback, timeout or self.answer_timeout_s, **more)


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """Makes such connections."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):  # type: ignore[misc]
    """Makes such connections, over TLS."""

    Connection = Connection


def use() -> None:
    """Let `amqp://` and `amqps://` brokers of this process be served by this transport."""
    TRANSPORT_ALIASES["amqp"] = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES["amqps"] = f"{__name__}:{SSLTransport.__name__}"
