"""Letters: the events of the outbox as they are posted, written and signed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from msgspec import Struct

from workers.contract.couponcode import CouponCodes
from workers.contract.ids import uuid7
from workers.contract.webhook import (
    SOURCE,
    SYSTEM,
    LevelData,
    SecretGone,
    WebhookSecrets,
    body_of_test,
    headers_of,
    intent_body,
    intent_event_id,
    level_body,
    level_event_id,
)
from workers.domain.delivery import Answer
from workers.store.outbox import Entry, Told
from workers.store.webhooks import Endpoint

_level = msgspec.json.Decoder(LevelData).decode


class Poster(Protocol):
    """What posts; see `contract.posting.Poster`."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class Letter(Struct, frozen=True):
    """An event as it is posted."""

    message_id: str
    body: bytes


class Writer:
    """Writes and signs letters. The same event gives the same letter, whoever writes it."""

    def __init__(self, secrets: WebhookSecrets, codes: CouponCodes, source: str = SOURCE) -> None:
        self._secrets = secrets
        self._codes = codes
        self._source = source

    def write(self, entry: Entry, told: Told | None) -> Letter | None:
        """Write an entry's letter; None where what it tells of is gone."""
        if entry.subject_id == SYSTEM:
            return self._write_level(entry)
        if told is None:
            return None
        body = intent_body(
            entry.event,
            entry.occurred_at,
            told.resource,
            told.idempotency_key,
            self._codes,
            self._source,
        )
        return Letter(intent_event_id(entry.subject_id, entry.event), body)

    def write_test(self, endpoint: Endpoint) -> Letter:
        """Write a letter that says only that letters arrive; each is a new one."""
        event_id = f"evt_{uuid7().hex}_test"
        now = datetime.now(UTC)
        return Letter(event_id, body_of_test(event_id, now, endpoint.gateway_id, self._source))

    def sign(self, endpoint: Endpoint, letter: Letter) -> dict[str, str]:
        """Return the headers of an attempt that is made now.

        Raises SecretGone where the current secret is; a former one that is gone signs no more.
        """
        current, *former = endpoint.secret_refs
        signed_by = [self._secrets.secret_of(endpoint.endpoint_id, current)]
        for ref in former:
            with suppress(SecretGone):
                signed_by.append(self._secrets.secret_of(endpoint.endpoint_id, ref))
        return headers_of(letter.message_id, int(time.time()), letter.body, signed_by)

    def _write_level(self, entry: Entry) -> Letter | None:
        if entry.data is None:
            return None
        level = _level(entry.data)
        event_id = level_event_id(round(level.since.timestamp() * 1000), level.level)
        return Letter(event_id, level_body(event_id, entry.occurred_at, entry.data, self._source))


async def post_letter(poster: Poster, writer: Writer, endpoint: Endpoint, letter: Letter) -> Answer:
    """Sign and post; a secret that cannot be made is an answer like others."""
    try:
        headers = writer.sign(endpoint, letter)
    except SecretGone as gone:
        return Answer(error=str(gone))
    return await poster.post(endpoint.url, headers, letter.body)
