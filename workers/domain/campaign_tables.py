"""The tables of a campaign file as written: their keys, types and bounds.

Each key is read by itself, so that one fault hides no other. What the keys mean together is
checked by `workers.domain.campaign`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from workers.domain.campaign_faults import Faults, nearest
from workers.domain.money import AMOUNT_MAX

UNITS_MAX = 10**12
COUPON_KINDS = ("amount_off", "percent_off")

# No colon: it parts the accounts of the ledger, `stock:{campaign}:{sku}:{state}`.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
_CURRENCY = r"^[A-Z]{3}\Z"
Name = Annotated[str, Meta(max_length=64, pattern=_NAME)]
Value = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
MoneyAmount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Units = Annotated[int, Meta(ge=0, le=UNITS_MAX)]
PerUserMax = Annotated[int, Meta(ge=0, le=1_000_000)]


class CampaignTable(Struct, kw_only=True):
    """`[campaign]`. The budget and what concerns coupons may be left out where there are none."""

    id: Name
    currency: Annotated[str, Meta(pattern=_CURRENCY)]
    time_zone: str
    starts_at: datetime
    ends_at: datetime
    coupons_valid_from: datetime | None = None  # from `starts_at`
    coupons_valid_until: datetime | None = None
    budget: MoneyAmount = 0
    coupons_per_user_max: PerUserMax = 0
    orders_per_user_max: Annotated[int, Meta(ge=1, le=1_000_000)]
    payment_window_minutes: Annotated[int, Meta(ge=1, le=10_080)] = 15  # a week is no reservation


class CouponTable(Struct, kw_only=True):
    """`[coupon]`: `amount`, or `percent` with `amount_max`."""

    kind: Literal["amount_off", "percent_off"]
    amount: Value | None = None
    percent: Annotated[int, Meta(ge=1, le=100)] | None = None
    amount_max: Value | None = None
    minimum_total: MoneyAmount = 0
    skus: list[Name] = []


class RateLimit(Struct, frozen=True, kw_only=True):
    """At most `burst` intents at once and `rate` a second in the long run."""

    rate: Annotated[float, Meta(gt=0, le=1_000_000)]
    burst: Annotated[int, Meta(ge=1)]


class RateLimits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`[rate_limits]`, by layer; a layer left out has none."""

    user: RateLimit | None = None
    conversation: RateLimit | None = None
    gateway: RateLimit | None = None
    campaign: RateLimit | None = None
    sku: RateLimit | None = None


class MerchantTable(Struct, frozen=True, kw_only=True):
    """`[[merchants]]`: who makes and delivers, and how much of it they can take."""

    id: Name
    orders_per_minute_max: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None


class ItemTable(Struct, frozen=True, kw_only=True):
    """`[[items]]`. `stock` is the opening stock, and stays what it was; see `stock_delta`.

    `stock_delta` adds units to a running campaign, or takes some that are still available. It is
    known by `stock_delta_id`, or without one by its own number, and applied once however often the
    file is: to add the same number again, give it another id.
    """

    sku: Name
    merchant: Name
    price: MoneyAmount
    stock: Units
    stock_delta: Annotated[int, Meta(ge=-UNITS_MAX, le=UNITS_MAX)] | None = None
    stock_delta_id: Name | None = None


# What a refused value should have been, in words an operator can act on.
_FORMS = {
    _NAME: "letters, digits, `.`, `_` or `-`, beginning with a letter or digit",
    _CURRENCY: "an ISO 4217 code such as `CNY`",
}
_TYPES = {
    " | null": "",
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "text in quotes",
    "`datetime`": "a date and time without quotes, such as 2026-02-06T10:00:00",
    "`array`": "an array",
}

Table = TypeVar("Table", bound=Struct)


def read_table(given: object, shape: type[Table], key: str, faults: Faults) -> Table | None:
    """Read one table as `shape`, noting every fault; None if it is no table at all.

    A key with a fault holds None, whatever its type says, so that the other keys can still be
    checked against each other: look at `faults` before trusting what is read.
    """
    if not isinstance(given, dict):
        faults.note(key, "is not a table", f"write it as `[{key}]` with its keys below")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    for name in given.keys() - fields.keys():
        faults.note(f"{key}.{name}", "is not a key of this table", nearest(name, fields))
    values = {name: _value(given, field, key, faults) for name, field in fields.items()}
    left_out = {name for name, field in fields.items() if name not in given and not field.required}
    return shape(**{name: value for name, value in values.items() if name not in left_out})


def read_tables(given: object, shape: type[Table], key: str, faults: Faults) -> list[Table | None]:
    """Read an array of tables; what is no table leaves None in its place."""
    if not isinstance(given, list):
        faults.note(key, "is not an array of tables", f"begin each of them with `[[{key}]]`")
        return []
    return [read_table(one, shape, f"{key}[{i}]", faults) for i, one in enumerate(given)]


def _value(given: Mapping[str, Any], field: FieldInfo, key: str, faults: Faults) -> object:
    where = f"{key}.{field.name}"
    if field.name not in given:
        if field.required:
            faults.note(where, "is missing", "write it")
        return None
    value = given[field.name]
    if field.type == RateLimit | None:
        return read_table(value, RateLimit, where, faults)
    try:
        return msgspec.convert(value, field.type, builtin_types=(datetime, date, time))
    except msgspec.ValidationError as error:
        faults.note(where, f"is {_shown(value)}", _expected(str(error), value))
        return None


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expected(error: str, value: object) -> str:
    if error.startswith("Invalid enum value"):
        return nearest(str(value), COUPON_KINDS)
    for pattern, form in _FORMS.items():
        error = error.replace(f"`str` matching regex {pattern!r}", form)
    for name, form in _TYPES.items():
        error = error.replace(name, form)
    return error[0].lower() + error[1:]
