"""Kombu's Redis transport, made to outlive what is no message, and a server that goes away.

Whatever is pushed to a queue's list is parsed in the consumer's loop, outside of Celery's care for
what it cannot decode: an element that is no JSON, or no envelope, ends the whole worker. Here it is
dropped with a log line, as RabbitMQ would never have let it in. It has left the list already.

An acknowledgement that fails with its server keeps its place among the messages in hand, for ever:
with a prefetch of one the consumer then asks for nothing more, never touches its connection again,
and never learns that the server is back. Here the place is freed whatever the server says.
"""

from __future__ import annotations

from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import QoS as VirtualQoS

from workers.contract.primary import Connection, SSLConnection

_log = structlog.get_logger()

_NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class QoS(redis.QoS):  # type: ignore[misc]
    """Frees the place of a message whose acknowledgement fails.

    Where the server has kept its unacknowledged record, the message comes again; so may any hint.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; raises what the connection raises."""
        try:
            super().ack(delivery_tag)
        except Exception:
            VirtualQoS.ack(self, delivery_tag)
            raise


class Channel(redis.Channel):  # type: ignore[misc]
    """Keeps the client that kombu makes anew for each exchange: a shell around the pool.

    Making it costs as much as the exchange itself.
    """

    QoS = QoS
    connection_class = Connection
    connection_class_ssl = SSLConnection
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept


class Transport(redis.Transport):  # type: ignore[misc]
    """Drops what is no message, and goes on with the next."""

    Channel = Channel

    def on_readable(self, fileno: int) -> None:
        """Handle what has come on one of the consumer's connections."""
        before = dict(self._in_hand())
        try:
            super().on_readable(fileno)
        except _NO_MESSAGE as error:
            _log.warning("rubbish in a queue dropped", error=error)
            # What is an envelope, but nothing that Celery can look at, is in hand already.
            for tag, channel in self._in_hand():
                if tag not in before:
                    channel.qos.ack(tag)

    def _in_hand(self) -> list[tuple[str, Any]]:
        """Return the messages that are not acknowledged yet, each with its channel."""
        channels = list(self.cycle._channels)  # noqa: SLF001 - kombu tells it nowhere else
        return [(tag, one) for one in channels for tag in one.qos._delivered]  # noqa: SLF001


def use() -> None:
    """Let `redis://` and `rediss://` brokers of this process be served by this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
