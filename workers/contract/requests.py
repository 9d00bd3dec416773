"""Messages as a worker takes them: all of them at once, whatever they ask for.

Celery takes a message with an `eta` out of its queue, allows the worker one more beside it, and keeps
it in memory until its time comes: so many such messages, so much memory. What has a time of its own
has it in the journal; a broker's message is untrusted input and may not say when.
"""

from __future__ import annotations

from celery.worker import request


class AtOnce(request.Request):  # type: ignore[misc]
    """A message without a time of its own."""

    eta = None
