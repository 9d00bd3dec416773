"""Readings: what a source said at one moment, and what is kept of a source over a few of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from config import catalogue
from deploy.top.sources import Source, SourceError

# Labels and their values, in the labels' order.
Labels = tuple[tuple[str, str], ...]
Series = Mapping[str, Mapping[Labels, float]]

_BUCKET: Final = "_bucket"
_PARTS_OF_HISTOGRAMS: Final = (_BUCKET, "_count", "_sum")

Time = Annotated[datetime, Meta(tz=True)]


class CampaignStatus(Struct, frozen=True, kw_only=True):
    """What the status says of a campaign."""

    issuance: str = ""
    resume_at: Time | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None


class Status(Struct, frozen=True, kw_only=True):
    """`GET /v1/status`, as far as it is shown. Lenient: the deployment may be of another version."""

    level: str
    reason: str = ""
    since: Time | None = None
    until: Time | None = None
    governed: bool | None = None
    issuance: str = ""
    redemption: str = ""
    estimated_wait_ms: float | None = None
    retry_after_ms: float | None = None
    admit_ratio: float | None = None
    campaigns: Mapping[str, CampaignStatus] = field(default_factory=dict)


_decode_status = msgspec.json.Decoder(Status).decode


class Reading(Struct, frozen=True, kw_only=True):
    """What a source said; `at_s` is of a monotonic clock."""

    at_s: float
    series: Series = field(default_factory=dict)
    status: Status | None = None


class Seen(Struct, frozen=True, kw_only=True):
    """A source as it is known: its latest readings, the oldest first, and why the last call failed."""

    source: Source
    readings: tuple[Reading, ...] = ()
    error: str = ""


def read(source: Source, body: bytes, at_s: float) -> Reading:
    """Understand an answer; raises SourceError when it is not what it should be."""
    if source.key:
        try:
            return Reading(at_s=at_s, status=_decode_status(body))
        except msgspec.MsgspecError as error:
            raise SourceError(f"no status: {error}") from None
    try:
        return Reading(at_s=at_s, series=parse(body.decode()))
    except (ValueError, LookupError) as error:
        raise SourceError(f"no metrics: {error}") from None


def parse(text: str) -> Series:
    """Read Prometheus' text format; keeps what the catalogue names, if it is a number.

    Raises ValueError or LookupError where the text is something else.
    """
    found: dict[str, dict[Labels, float]] = {}
    known = _names()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in known and math.isfinite(sample.value):
                if sample.name.endswith(_BUCKET):
                    float(sample.labels["le"])
                labels = tuple(sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
    return found


def heard(seen: Seen, reading: Reading, window_s: float) -> Seen:
    """Take in a reading; keeps those of the last `window_s`."""
    kept = tuple(one for one in seen.readings if reading.at_s - one.at_s <= window_s)
    return replace(seen, readings=(*kept, reading), error="")


def missed(seen: Seen, why: str) -> Seen:
    """Take in that a call failed."""
    return replace(seen, error=why)


@cache
def _names() -> frozenset[str]:
    """Every name of a sample that the catalogue's metrics have."""
    return frozenset(
        name + part
        for name, metric in catalogue.metrics().items()
        for part in (_PARTS_OF_HISTOGRAMS if metric.kind == "histogram" else ("",))
    )
