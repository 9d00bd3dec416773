"""Showing a reading of the tables as metrics: pure, from numbers to families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from config.catalogue import Metric, metric
from workers.domain.outcome import Refusal
from workers.store.figures import Figures

OTHER = "other"  # every campaign that is not shown by name
_BULK = "bulk"

Series = Mapping[tuple[str, ...], float]


class Reading(Struct, frozen=True, kw_only=True):
    """What is known. `figures` None: they were never read; `at` is Unix time."""

    figures: Figures | None = None
    at: float = 0.0
    took_s: float = 0.0
    postgres_up: bool = False
    valkey_up: bool = False
    queues: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, int] = field(default_factory=dict)
    drift_took_s: float = 0.0


def families(reading: Reading) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield a family for each metric that the reading knows something of."""
    for name, series in {**_of_servers(reading), **_of_tables(reading)}.items():
        family = _family_of(metric(name))
        for labels, value in series.items():
            family.add_metric(labels, value)
        yield family


def _family_of(known: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if known.kind == "counter" else GaugeMetricFamily
    return kind(known.name, known.meaning, labels=tuple(known.labels))


def _of_servers(reading: Reading) -> dict[str, Series]:
    return {
        "tidegate_postgres_up": {(): reading.postgres_up},
        "tidegate_valkey_up": {(): reading.valkey_up},
        "tidegate_ledger_drift": {(name,): count for name, count in reading.drift.items()},
        "celery_queue_length": {(queue,): length for queue, length in reading.queues.items()},
    }


def _of_tables(reading: Reading) -> dict[str, Series]:
    found = reading.figures
    if found is None:
        return {}
    names = {campaign.campaign_id for campaign in found.campaigns}
    return {
        "tidegate_exporter_read_seconds": {(): reading.took_s},
        "tidegate_exporter_read_timestamp_seconds": {(): reading.at},
        "tidegate_intents_accepted_total": {(): found.accepted},
        "tidegate_open_intents": {(): found.open_count},
        "tidegate_open_oldest_age_seconds": {(): found.oldest_age_s},
        "tidegate_quarantined_intents": {(): found.quarantined},
        **_of_tallies(found, names),
        "tidegate_stock_units": {
            (one.campaign_id, one.sku, state): getattr(one, state)
            for one in found.stock
            for state in metric("tidegate_stock_units").labels["state"]
        },
        "tidegate_budget_minor_units": {
            (one.campaign_id, one.currency, state): getattr(one.budget, state)
            for one in found.campaigns
            if one.budget is not None
            for state in metric("tidegate_budget_minor_units").labels["state"]
        },
        "tidegate_issuance_paused": {
            (one.campaign_id,): one.issuance_paused for one in found.campaigns
        },
    }


def _of_tallies(found: Figures, names: Iterable[str]) -> dict[str, Series]:
    """Sum the tallies by their labels; campaigns that are not shown are `other`."""
    committed: Counter[tuple[str, ...]] = Counter()
    refused: Counter[tuple[str, ...]] = Counter()
    issued: Counter[tuple[str, ...]] = Counter()
    redeemed: Counter[tuple[str, ...]] = Counter()
    # A counter that begins when its first event has happened has no increase to show.
    for name in (*names, OTHER):
        for kind in ("order", "issuance"):
            committed[name, kind] += 0
            refused[name, kind, Refusal.COULD_NOT_BE_PROCESSED] += 0  # one of them wakes somebody
        issued[(name,)] += 0
        redeemed[(name,)] += 0
    for tally in found.tallies:
        campaign = tally.campaign_id if tally.campaign_id in names else OTHER
        (redeemed if tally.kind == "order" else issued)[(campaign,)] += tally.coupons
        if tally.reason:
            refused[(campaign, tally.kind, tally.reason)] += tally.intents
        elif tally.kind != _BULK:
            committed[(campaign, tally.kind)] += tally.intents
    return {
        "tidegate_intents_committed_total": committed,
        "tidegate_intents_refused_total": refused,
        "tidegate_coupons_issued_total": issued,
        "tidegate_coupons_redeemed_total": redeemed,
    }
