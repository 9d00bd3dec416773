"""A user's coupons."""

from __future__ import annotations

from producer.http import render
from producer.http.calls import JSON_HEADER, NO_STORE, Call, Reply
from producer.http.intents import not_found
from workers.store import resources

_USER_ID_LENGTH_MAX = 128


async def get_coupons(call: Call) -> Reply:
    """`GET /v1/users/{user_id}/coupons`: those of this gateway's wish, and those issued in bulk."""
    gateway = await call.authorise("coupons:read")
    user_id = call.parameter("user_id")
    if len(user_id) > _USER_ID_LENGTH_MAX or "\x00" in user_id:
        raise not_found()
    found = await call.api.desk.ask(
        lambda connection: resources.coupons_of_user(connection, gateway.gateway_id, user_id)
    )
    body = render.user_coupons(user_id, found, call.api.codes)
    return Reply(200, body, [JSON_HEADER, NO_STORE])
