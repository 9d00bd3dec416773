"""What is shown of a deployment, put together from what its processes said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from top_world import AT, away, exporter, flood, governor, moment, seen, status, worker

from deploy.top.figures import Figures, Flow, Units, schema
from deploy.top.model import figures_of
from deploy.top.reading import Seen, missed
from deploy.top.sources import STATUS
from workers.domain.overload import Level


def shown(*some: Seen, at_s: float = 101.0) -> Figures:
    return figures_of(some, moment(at_s))


def raw(figures: Figures) -> dict[str, Any]:
    """As a script reads it."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(figures))
    return decoded


def test_a_flood_is_told_in_figures() -> None:
    """One reading of all sources after the other, a second apart."""
    it = shown(*flood())
    assert it.level.level == "shedding"
    assert it.level.reason == "wait"
    assert it.intents.offered.per_s == 812 + 8 + 4_100 + 200
    assert it.intents.accepted == Flow(1_000_812, 812)
    assert it.intents.journalled == Flow(1_000_812, 812)
    assert it.intents.committed == Flow(900_790, 790)
    assert it.intents.refused.per_s == 4_300
    assert it.intents.refused_later == Flow(21_914, 14)
    assert it.intents.unanswered == Flow(1, 0)
    assert (it.waits.predicted_s, it.waits.predicted_then_s, it.waits.true_s) == (2.41, 2.40, 2.38)
    assert it.pipeline.queues == {"tidegate.orders": 3, "tidegate.intake": 0}
    assert it.pipeline.batch_size == 67
    assert it.pipeline.stages_s["apply"] == pytest.approx(0.0098)
    assert [worker.name for worker in it.pipeline.workers] == ["worker-1", "worker-2"]
    assert it.pipeline.workers[0].intents_per_s == 402
    assert it.dependencies.postgres.up
    assert it.dependencies.valkey.memory_ratio == 0.12
    assert it.troubles == []


def test_refusals_are_by_class_and_layer_the_most_frequent_first() -> None:
    """What is admitted is no refusal, and what never happened is not listed."""
    it = shown(*flood()).refusals
    assert [(one.class_, one.layer, one.per_s) for one in it.gate] == [
        ("redemption", "level", 2_600),
        ("order", "level", 1_450),
        ("order", "stock", 200),
        ("order", "user", 50),
    ]
    assert [(one.reason, one.total) for one in it.outcomes] == [
        ("coupon_unknown", 21_014),
        ("sold_out", 900),
    ]
    assert it.admitted["redemption"] == Flow(400_250, 250)
    assert it.appointments["kept"] == Flow(290_470, 470)


def test_a_campaign_is_told_with_its_items_and_its_money() -> None:
    """Units as the tables hold them; minor units of its currency."""
    (it,) = shown(*flood()).campaigns
    assert it.campaign == "qwen-spring-2026"
    assert it.items["lantern-cake"] == Units(initial=600, available=0, reserved=12, sold=588)
    assert it.stock == Units(
        initial=5_020_600, available=3_551_400, reserved=12, sold=1_450_000 + 588 + 18_600
    )
    assert (it.budget.currency, it.budget.initial) == ("CNY", 3e11)
    assert it.redeemed == Flow(800_700, 700)
    assert it.issuance == "paused"


def test_before_anybody_answered_nothing_is_known() -> None:
    """Every figure is null, every list is empty, and no trouble is invented."""
    it = raw(shown(*(replace(one, readings=()) for one in flood())))
    assert {source.pop("state") for source in it.pop("sources")} == {"unheard"}
    del it["at"], it["window_s"]
    assert set(_leaves(it)) <= {None, ""}


def _leaves(it: Any) -> Iterator[Any]:
    for one in it.values() if isinstance(it, dict) else it if isinstance(it, list) else ():
        if isinstance(one, dict | list):
            yield from _leaves(one)
        else:
            yield one


def test_without_an_exporter_the_rest_is_told() -> None:
    """Each series is read by its name; who shows it does not matter."""
    it = shown(*flood()[:-1])
    assert it.intents.accepted.per_s == 812
    assert it.intents.committed == Flow(None, None)
    assert it.intents.decided.total == 990_000
    assert it.pipeline.open is None
    assert it.dependencies.postgres.up  # the governor's probe is answered
    assert [one.campaign for one in it.campaigns] == ["qwen-spring-2026"]  # the status names it
    assert it.campaigns[0].stock.available is None


def test_a_probe_that_is_not_answered_says_that_the_dependency_is_down() -> None:
    """Where there is no exporter to say so; without a governor nobody knows."""
    deaf = governor(tidegate_probe_seconds={"dependency=valkey": 0.0002})
    it = shown(seen("governor", deaf))
    assert it.dependencies.postgres.up is False
    assert it.dependencies.valkey.up is True
    assert "PostgreSQL does not answer" in it.troubles
    assert shown(seen("w", worker(0))).dependencies.postgres.up is None


def test_without_a_key_the_level_is_the_governors() -> None:
    """Level and since; the reason is told by the status alone."""
    it = shown(seen("governor", governor())).level
    assert (it.level, it.reason, it.governed) == ("shedding", "", None)
    assert it.since == AT - timedelta(seconds=178)
    closed = shown(seen("governor", governor(tidegate_level=3, tidegate_level_ordered=1))).level
    assert (closed.level, closed.ordered) == ("closed", True)
    assert shown(seen("governor", governor(tidegate_level=17))).level.level is None


def test_a_source_that_is_away_is_told_with_its_age_and_its_reason() -> None:
    """Its last figures stand for a while, then they are not known; the others go on."""
    soon, later = shown(*away(2.0)), shown(*away(12.0))
    for it, age_s in ((soon, 2.0), (later, 12.0)):
        source = it.sources[-1]
        assert (source.name, source.state, source.age_s) == ("exporter", "away", age_s)
        assert source.error == "Connection refused"
        assert it.intents.accepted.per_s == 812
    assert soon.intents.committed.per_s == 790
    assert later.intents.committed.per_s is None
    assert later.troubles == ["exporter away for 12 s: Connection refused"]


def test_a_source_that_says_nothing_any_more_is_away_too() -> None:
    """A call that hangs fails late, or never."""
    it = shown(seen("governor", governor()), at_s=140.0)
    assert [(one.state, one.error) for one in it.sources] == [("away", "no answer")]
    assert it.level.level is None


def test_a_worker_that_is_away_is_a_worker_that_is_not_up() -> None:
    """Known by its name, if it was never heard."""
    never = missed(replace(seen("worker-2", worker(0)), readings=()), "Connection refused")
    it = shown(seen("worker-1", worker(0), worker(1)), never)
    assert [(one.name, one.up) for one in it.pipeline.workers] == [
        ("worker-1", True),
        ("worker-2", False),
    ]


@pytest.mark.parametrize(
    ("series", "trouble"),
    [
        ({"tidegate_ledger_drift": {"check=stock": 2}}, "the ledger does not add up (stock 2)"),
        ({"tidegate_quarantined_intents": 3}, "3 in quarantine"),
        ({"tidegate_postgres_up": 0}, "PostgreSQL does not answer"),
        ({"tidegate_valkey_up": 0}, "Valkey does not answer"),
        ({"tidegate_heartbeat_age_seconds": 90}, "no heartbeat order has come through for 90 s"),
    ],
)
def test_what_an_operator_must_look_at_is_said(series: dict[str, Any], trouble: str) -> None:
    """In a sentence, with what to do where there is something."""
    (said,) = shown(seen("exporter", exporter(1, **series))).troubles
    assert said.startswith(trouble)


def test_that_nobody_governs_is_said() -> None:
    """Then only the fixed limits hold."""
    alone = status(level=Level.NORMAL, reason="", governed=False)
    (said,) = shown(seen(STATUS, alone)).troubles
    assert "tidegate governor" in said


def test_every_key_of_the_json_is_described() -> None:
    """`tidegate top --schema` is the documentation, so it must be whole."""
    described = schema()["$defs"]
    bare = [
        f"{name}.{key}"
        for name, definition in described.items()
        for key, of in definition["properties"].items()
        if not of.get("description")
    ]
    assert len(described) > 15
    assert bare == []


def test_the_json_has_the_keys_that_are_described() -> None:
    """Raw numbers, null for what nobody says."""
    it = raw(shown(*flood()))
    assert set(it) == set(schema()["$defs"]["Figures"]["properties"])
    assert it["refusals"]["gate"][0]["class"] == "redemption"
    assert it["intents"]["committed"] == {"total": 900_790, "per_s": 790}
    assert it["waits"]["sojourn"]["count"] == 2 * 402
