"""What `tidegate doctor` looks at where Celery's broker is not the gate's Valkey."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from celery import Celery
from kombu.connection import Connection

from config.settings import Settings, redact_url
from deploy.cli.finding import Finding, judge, unreachable
from workers.contract import rabbitmq
from workers.contract.celery_app import make_app
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE

# Quorum queues with a limit of deliveries came with 3.8; 3.10 is the oldest that was tried.
RABBITMQ_VERSION_MIN: Final = (3, 10)
_TIMEOUT_S: Final = 3
_PERMISSIONS: Final = (
    r"rabbitmqctl set_permissions USER '^tidegate\.' '^(amq\.default|tidegate\..*)$' '^tidegate\.'"
)


def broker(settings: Settings) -> list[Finding]:
    """Examine Celery's broker, where it is not the gate's server."""
    if not settings.broker.url:
        return [judge("broker", True, "the gate's Valkey", "")]
    where = redact_url(settings.broker.url)
    app = make_app(settings)
    try:
        with app.connection_for_read(connect_timeout=_TIMEOUT_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_S)
            found = [judge("broker", True, where, "")]
            if rabbitmq.speaks(settings.broker.url):
                found += _examine_rabbitmq(app, connection)
            return found
    except Exception as error:
        mend = "start it, or correct TIDEGATE_BROKER__URL"
        return [unreachable("broker", f"{where}: {error}", mend)]


def _examine_rabbitmq(app: Celery, connection: Connection) -> Iterator[Finding]:
    server: dict[str, Any] = connection.connection.server_properties
    product, text = server.get("product", "unknown"), str(server.get("version", ""))
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    yield judge(
        "RabbitMQ version",
        product == "RabbitMQ" and version >= RABBITMQ_VERSION_MIN,
        f"{product} {text}",
        "upgrade to RabbitMQ 3.10 or later, which has quorum queues as they are declared here",
    )
    for name in (ORDERS_QUEUE, INTAKE_QUEUE):
        yield _judge_queue(app, connection, name)


def _judge_queue(app: Celery, connection: Connection, name: str) -> Finding:
    """Declare a queue as it is declared by all, if it is there: that changes nothing, or is refused."""
    check = f"RabbitMQ queue {name}"
    with contextlib.suppress(NotFound):
        connection.default_channel.queue_declare(name, passive=True)
        try:
            app.amqp.queues[name](connection.default_channel).queue_declare()
        except PreconditionFailed as error:
            mend = (
                f"let it run empty, then `rabbitmqctl delete_queue {name}`: the next process declares "
                "it anew, and nothing is lost with hints"
            )
            return judge(check, False, error.reply_text, mend)
        except AccessRefused as error:
            return judge(check, False, error.reply_text, _PERMISSIONS)
        return judge(check, True, "a quorum queue", "")
    return judge(check, True, "not there yet: the first process declares it", "")
