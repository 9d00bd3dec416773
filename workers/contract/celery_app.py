"""The Celery app: made by a function, configured in one place, each setting with its reason.

The queue carries hints and may lose, double or reorder them. So everything here serves latency and
safety of the process, nothing serves durability: that is the journal's.
"""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from celery import Celery, Task
from kombu import Exchange, Queue

from config.settings import Settings
from workers.contract import transport
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE


class _Task(Task):  # type: ignore[misc]
    """A task whose messages are taken at once. By name: only workers need what that takes."""

    Request = "workers.contract.requests:AtOnce"


def queue(name: str) -> Queue:
    """A queue on the anonymous exchange: no binding that a flush could lose."""
    return Queue(name, Exchange(""), routing_key=name)


def make_app(settings: Settings) -> Celery:
    """Make an app that neither connects nor becomes anybody's current app."""
    transport.use()
    app = Celery("tidegate", broker=settings.broker_url, set_as_current=False, task_cls=_Task)
    publish_timeout_s = settings.broker.publish_timeout_ms / 1000
    app.conf.update(
        task_queues=[queue(ORDERS_QUEUE), queue(INTAKE_QUEUE)],
        task_default_queue=ORDERS_QUEUE,
        task_default_exchange="",
        task_create_missing_queues=False,  # a misspelt queue is an error, not a new queue
        # JSON only: whatever else lies in the queue is rejected before any code of it runs.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # Outcomes live in PostgreSQL; a result backend would be a second, weaker truth.
        result_backend=None,
        task_ignore_result=True,
        # A hint is acknowledged after its batch: one whose worker was killed comes back.
        task_acks_late=True,
        # One whose child was killed does not: it may be what killed it. The claim's record tells the
        # next worker, and the next hint or the redispatcher brings the intents back.
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,  # a hint in a busy worker's pocket is late
        worker_enable_remote_control=False,  # no shutdown by message
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # it raises SystemExit anywhere
        worker_soft_shutdown_timeout=0,
        worker_proc_alive_timeout=30,  # a child on a loaded machine may take seconds to start
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # the broker comes back; until then the journal waits
        broker_connection_timeout=publish_timeout_s,
        broker_pool_limit=4,
        broker_use_ssl=_proof_of(settings.broker_url),
        broker_transport_options={
            "visibility_timeout": settings.broker.visibility_timeout_s,
            "unacked_restore_interval": 5,  # looks for hints of dead workers this often, not each 100 s
            "unacked_restore_throttle": 1,
            "socket_timeout": max(publish_timeout_s, 1),
            "socket_connect_timeout": publish_timeout_s,
            "interval_start": 0.1,  # between attempts to connect within the timeout; 2 s otherwise
            "interval_step": 0.1,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "priority_steps": [0],  # one list per queue: nothing hides from its length
            "queue_order_strategy": "round_robin",
        }
        if settings.broker_url.startswith(("redis", "rediss"))
        else {"confirm_publish": True},
    )
    return app


def _proof_of(broker_url: str) -> dict[str, object] | bool:
    """Return how a broker over TLS proves who it is; what a URL says itself (`ssl_…`) outranks it.

    By itself kombu takes any certificate of a `rediss://` broker, or none that is valid, and of an
    `amqps://` broker one for another host.
    """
    if broker_url.startswith("rediss:"):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if broker_url.startswith("amqps:"):
        return {"server_hostname": urlsplit(broker_url).hostname}
    return False
