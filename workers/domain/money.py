"""Money: whole minor units (fen, cents) and an ISO 4217 currency. Never a float."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

# Far above any cart, far below bigint: sums of a whole campaign still fit.
AMOUNT_MAX = 10**14

Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]


class Money(Struct, frozen=True, forbid_unknown_fields=True):
    """An amount of minor units in a currency."""

    amount: Amount
    currency: Currency
