"""The governor's gauges: shown by who leads, and only what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from config.exposition import Exposition
from workers.domain.governor import Sample
from workers.domain.overload import Level, Policy
from workers.runtime.telling import Telling
from workers.service.govern import TickReport


def report(at_s: float = 10.0, wait_ms: int = 800, **sample: Any) -> TickReport:
    """A tick of a leader."""
    parts: dict[str, Any] = {"postgres_ms": 2.0, "valkey_ms": 0.5, "in_flight": 40, **sample}
    return TickReport(
        epoch=7,
        published=True,
        policy=Policy(level=Level.SHEDDING, predicted_wait_ms=wait_ms, service_per_s=100.0),
        sample=Sample(at_s=at_s, interval_s=0.25, **parts),
    )


def shown() -> dict[str, float]:
    text = Exposition("governor").text().decode()
    lines = [line for line in text.splitlines() if line.startswith("tidegate_")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_a_leader_shows_what_it_measured_in_base_units() -> None:
    """Milliseconds are the code's; seconds are Prometheus'."""
    Telling().tell(report(postgres_ms=250.0))
    found = shown()
    assert found["tidegate_governor_leads"] == 1
    assert found["tidegate_level"] == 2
    assert found["tidegate_predicted_wait_seconds"] == pytest.approx(0.8)
    assert found['tidegate_probe_seconds{dependency="postgres"}'] == pytest.approx(0.25)
    assert found["tidegate_in_flight"] == 40


def test_what_could_not_be_measured_is_not_shown() -> None:
    """A dead database has no latency, and certainly not one of zero."""
    telling = Telling()
    telling.tell(report())
    telling.tell(report(postgres_ms=None, in_flight=None))
    found = shown()
    assert 'tidegate_probe_seconds{dependency="postgres"}' not in found
    assert "tidegate_in_flight" not in found


def test_who_does_not_lead_shows_nothing_but_that() -> None:
    """Each series is there once, however many governors run."""
    telling = Telling()
    telling.tell(report())
    telling.tell(TickReport(policy=Policy(level=Level.SHEDDING)))
    found = {
        name for name in shown() if not name.startswith(("tidegate_decided", "tidegate_build"))
    }
    assert found <= {"tidegate_governor_leads", "tidegate_process_start_timestamp_seconds"}
    assert shown()["tidegate_governor_leads"] == 0


def test_the_prediction_is_shown_beside_the_wait_that_came_true() -> None:
    """Those decided at 12 s had waited 1.5 s: what counts is what was predicted at 10.5 s."""
    telling = Telling()
    for at_s, wait_ms in ((10.0, 500), (10.5, 1_400), (11.0, 2_000), (12.0, 2_200)):
        telling.tell(report(at_s, wait_ms, sojourn_p50_ms=1_500.0 if at_s == 12.0 else None))
    found = shown()
    assert found["tidegate_true_wait_seconds"] == pytest.approx(1.5)
    assert found["tidegate_predicted_wait_then_seconds"] == pytest.approx(1.4)
    assert found["tidegate_predicted_wait_seconds"] == pytest.approx(2.2)
