"""What is raised: mistakes of whoever wrote or configured the gateway, and nothing else.

A refusal, a crowd, an outage are values (`producer.client.model`): a chat must have words for them.
"""

from __future__ import annotations


class GatewayFault(Exception):
    """The API will never take this call as it is.

    `code` and `detail` are the API's words for it. `idempotency_key` is that of the wish, if it had
    one: where an earlier answer was lost, look it up before you make another.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, trace_id: str = "", message: str = ""
    ) -> None:
        super().__init__(f"{code} ({status}): {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.trace_id = trace_id
        self.message = message  # fit to be shown in the chat
        self.idempotency_key: str | None = None


class InvalidCall(GatewayFault):
    """Something in the call is not as it must be; `detail` names the field."""


class KeyConflict(GatewayFault):
    """The idempotency key belongs to another intent. One key, one intent."""


class Unauthenticated(GatewayFault):
    """The gateway's key is missing, not known, or revoked."""


class Forbidden(GatewayFault):
    """The gateway's key lacks the scope for this."""


class NotFound(GatewayFault):
    """There is no such thing, or it belongs to another gateway."""


_BY_STATUS = {401: Unauthenticated, 403: Forbidden, 404: NotFound}


def fault(
    status: int, code: str, detail: str, *, trace_id: str = "", message: str = ""
) -> GatewayFault:
    """Make the fault that an answer tells."""
    made = KeyConflict if code == "idempotency_conflict" else _BY_STATUS.get(status, InvalidCall)
    return made(status, code or f"http_{status}", detail, trace_id=trace_id, message=message)
