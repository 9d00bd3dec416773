"""The campaign file: what an operator offers, read strictly, every fault named at once.

A campaign file is read at leisure and then meets millions of people, so nothing in it is guessed:
an unknown key, a number in quotes, a local time that the clocks of the campaign's zone skip or show
twice, an item of a merchant nobody wrote down are each a fault with its key and its mend, and one
reading finds them all.

Times without an offset are the campaign's local time (`time_zone`); kept are UTC instants. Where
the clocks go back an hour is shown twice: such a time is refused unless it is written with its
offset.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from workers.domain.campaign_faults import Fault, Faults, nearest
from workers.domain.campaign_times import read_instant, read_zone
from workers.domain.money import AMOUNT_MAX, Currency
from workers.domain.snapshot import Campaign, CouponTerms
from workers.domain.tables import read_table, read_tables

FILE_CHARS_MAX = 4_000_000
ITEMS_MAX = 10_000  # applying a file locks the stock of all its items at once
UNITS_MAX = 10**12
BURST_WINDOW_S_MAX = 31 * 86_400  # the gate remembers a burst no longer

# A colon parts the accounts of the ledger, `stock:{campaign}:{sku}:{state}`: with none in the
# campaign's id and the state, a SKU may hold any.
FileCampaignId = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Name = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*\Z")]
ChangeId = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*\Z")]
Price = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Value = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
Units = Annotated[int, Meta(ge=0, le=UNITS_MAX)]
UnitsDelta = Annotated[int, Meta(ge=-UNITS_MAX, le=UNITS_MAX)]
