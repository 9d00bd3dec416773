"""A reading of the tables as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from config.catalogue import metrics
from workers.runtime.showing import Reading, families
from workers.store.figures import Budget, Campaign, Figures, Stock, Tally

FIGURES = Figures(
    tallies=[
        Tally("spring", "order", "", 70, 60),
        Tally("spring", "order", "sold_out", 5, 0),
        Tally("spring", "issuance", "", 20, 20),
        Tally("spring", "bulk", "", 0, 1_000),
        Tally("autumn", "order", "", 3, 1),
        Tally("", "order", "campaign_not_active", 2, 0),
    ],
    open_count=7,
    oldest_age_s=1.5,
    quarantined=1,
    campaigns=[
        Campaign("spring", "CNY", True, Budget(1_000, 500, 300, 200)),
        Campaign("goods-only", "CNY", False, None),
    ],
    stock=[Stock("spring", "tea", 100, 30, 10, 60)],
)


def shown(reading: Reading) -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus would read: values by name and label values."""

    class _Once(Collector):
        def collect(self) -> object:  # type: ignore[override]
            return families(reading)

    registry = CollectorRegistry()
    registry.register(_Once())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_what_is_accepted_is_what_is_decided_and_what_is_open() -> None:
    """Of one snapshot, so to the unit."""
    found = shown(Reading(figures=FIGURES))
    assert found["tidegate_intents_accepted_total", ()] == 70 + 5 + 20 + 3 + 2 + 7
    assert found["tidegate_open_intents", ()] == 7


def test_campaigns_that_are_not_listed_are_one_other() -> None:
    """Labels stay few, and the sums stay right."""
    found = shown(Reading(figures=FIGURES))
    assert found["tidegate_intents_committed_total", ("spring", "order")] == 70
    assert found["tidegate_intents_committed_total", ("other", "order")] == 3
    assert found["tidegate_intents_refused_total", ("spring", "order", "sold_out")] == 5
    assert found["tidegate_intents_refused_total", ("other", "order", "campaign_not_active")] == 2


def test_coupons_count_whether_they_came_by_intent_or_in_bulk() -> None:
    """Issued by either; redeemed by orders only."""
    found = shown(Reading(figures=FIGURES))
    assert found["tidegate_coupons_issued_total", ("spring",)] == 1_020
    assert found["tidegate_coupons_redeemed_total", ("spring",)] == 60
    assert found["tidegate_coupons_redeemed_total", ("other",)] == 1


def test_a_campaign_counts_from_zero_before_anything_happened() -> None:
    """A series that begins with its first event has no increase to show."""
    quiet = Figures([], 0, 0.0, 0, FIGURES.campaigns, [])
    found = shown(Reading(figures=quiet))
    assert found["tidegate_intents_committed_total", ("spring", "order")] == 0
    assert found["tidegate_intents_committed_total", ("other", "order")] == 0
    assert found["tidegate_coupons_issued_total", ("spring",)] == 0
    for campaign in ("spring", "other"):
        given_up = (campaign, "issuance", "could_not_be_processed")
        assert found["tidegate_intents_refused_total", given_up] == 0


def test_stock_and_budget_are_shown_by_state() -> None:
    """The states add up to what there was at first."""
    found = shown(Reading(figures=FIGURES))
    units = {labels[2]: n for (name, labels), n in found.items() if name == "tidegate_stock_units"}
    assert units == {"initial": 100, "available": 30, "reserved": 10, "sold": 60}
    assert found["tidegate_budget_minor_units", ("spring", "CNY", "available")] == 500
    assert found["tidegate_issuance_paused", ("spring",)] == 1
    without = {name for name, labels in found if labels[:1] == ("goods-only",)}
    assert "tidegate_intents_committed_total" in without
    assert "tidegate_budget_minor_units" not in without


def test_what_was_never_read_is_not_shown() -> None:
    """A database that is away from the start has no zero orders; it is away."""
    found = shown(Reading())
    assert found == {("tidegate_postgres_up", ()): 0, ("tidegate_valkey_up", ()): 0}


def test_every_series_of_the_exporter_is_shown_from_somewhere() -> None:
    """The catalogue promises no series that nobody shows."""
    reading = Reading(figures=FIGURES, queues={"q": 1}, drift={"stock_adds_up": 0})
    heartbeat = {"tidegate_heartbeat_age_seconds", "tidegate_heartbeat_duration_seconds"}
    promised = {name for name, metric in metrics().items() if metric.source == "exporter"}
    assert {name for name, _ in shown(reading)} | heartbeat == promised
