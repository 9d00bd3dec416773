"""Reading bodies strictly: whatever is wrong with one becomes a problem that names the field."""

from __future__ import annotations

import re
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from producer.http.headers import TICKET_LENGTH_MAX
from producer.http.problems import Code, FieldError, Problem
from workers.domain.intent import IdempotencyKey, IssuanceIntent, OrderIntent
from workers.domain.money import Amount

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class _Decoder(Protocol[T_co]):
    def decode(self, body: bytes, /) -> T_co: ...


PaymentReference = IdempotencyKey  # the same: 1 to 255 characters, none of them control


# As in the header.
Ticket = Annotated[str, Meta(min_length=1, max_length=TICKET_LENGTH_MAX, pattern=r"^[!-~]+\Z")]


class Payment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A payment, as the gateway reports it; `amount` in minor units of the order's currency."""

    payment_reference: PaymentReference
    amount: Amount


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cancel says nothing more."""


class KeyedOrderIntent(OrderIntent, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An intent within a batch, with its own key, and the ticket of its appointment if it has one."""

    idempotency_key: IdempotencyKey
    appointment: Ticket | None = None

    def plain(self) -> OrderIntent:
        """Return the intent without its key and ticket: the same, to the letter, as posted alone."""
        return OrderIntent(
            user_id=self.user_id,
            campaign_id=self.campaign_id,
            lines=self.lines,
            coupon_code=self.coupon_code,
            conversation_id=self.conversation_id,
            locale=self.locale,
            ttl_ms=self.ttl_ms,
            expected_total=self.expected_total,
        )


ORDER: Final = msgspec.json.Decoder(OrderIntent)
KEYED_ORDER: Final = msgspec.json.Decoder(KeyedOrderIntent)
ISSUANCE: Final = msgspec.json.Decoder(IssuanceIntent)
PAYMENT: Final = msgspec.json.Decoder(Payment)
CANCEL: Final = msgspec.json.Decoder(Cancel)
ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])

_PATH = re.compile(r"^(?P<detail>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"field `(?P<name>[^`]*)`$|^`(?P<first>[\w.\[\]]+)` ")
_DETAIL_LENGTH_MAX = 200  # a field's name may be as long as a body


def decode(decoder: _Decoder[T], body: bytes) -> T:
    """Decode a body; raises Problem (400)."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except UnicodeDecodeError:
        detail = "The body holds a text that is not UTF-8."
    except msgspec.DecodeError as error:
        detail = f"The body is not JSON: {str(error)[:_DETAIL_LENGTH_MAX]}."
    except RecursionError:
        detail = "The body is nested too deeply."
    raise Problem(Code.MALFORMED_BODY, detail)


def _invalid(text: str) -> Problem:
    """Take the decoder's message apart into the field and what it must be."""
    found = _PATH.match(text)
    assert found is not None, "every text matches"
    detail, path = found["detail"], found["path"] or ""
    named = _NAMED.search(detail)
    if named is not None:
        name = named["first"] or named["name"]  # which may be empty
        if named["first"]:
            detail = detail[named.end() :]
        path = f"{path}.{name}" if path else name
    error = FieldError(path[:_DETAIL_LENGTH_MAX], detail[:_DETAIL_LENGTH_MAX])
    where = error.field or "The body"
    return Problem(Code.INVALID_FIELD, f"{where}: {error.detail}.", errors=(error,))
