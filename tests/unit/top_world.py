"""A deployment as its processes tell of it, in the text that prometheus_client writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from config import catalogue
from deploy.top.history import History
from deploy.top.model import Moment, figures_of
from deploy.top.reading import Seen, heard, missed, read
from deploy.top.sources import STATUS, Source
from producer.http.render import CampaignStatusView, StatusView
from workers.domain.overload import Level

AT = datetime(2026, 2, 6, 12, 4, 31, tzinfo=UTC)
STARTED = AT.timestamp() - 7_200
KEY = "tg_demo_key"

# name: value, or labels (as `a=x,b=y`): value; a histogram's value is what it observed.
Shown = Mapping[str, Any]


def text(shown: Shown) -> bytes:
    """Write metrics as a process shows them; a name or label outside the catalogue raises."""
    registry = CollectorRegistry()
    for name, values in shown.items():
        metric = catalogue.metric(name)
        by = values if isinstance(values, dict) else {"": values}
        kind: Any = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[metric.kind]
        more = {"buckets": metric.buckets} if metric.buckets else {}
        made = kind(name, metric.meaning, list(metric.labels), registry=registry, **more)
        for at, value in by.items():
            labels = dict(pair.split("=") for pair in at.split(",")) if at else {}
            one = made.labels(**labels) if labels else made
            if metric.kind == "histogram":
                for observed in value:
                    one.observe(observed)
            else:
                (one.inc if metric.kind == "counter" else one.set)(value)
    return generate_latest(registry)


def source(name: str) -> Source:
    """An address that nobody asks."""
    key = KEY if name == STATUS else ""
    return Source(name=name, url=f"http://10.0.0.7:9100/{name}", key=key)


def seen(name: str, *bodies: bytes, began_s: float = 100.0, window_s: float = 5.0) -> Seen:
    """A source that was heard once a second."""
    one = Seen(source=source(name))
    for at, body in enumerate(bodies):
        one = heard(one, read(one.source, body, began_s + at), window_s)
    return one


def moment(at_s: float = 101.0) -> Moment:
    """The moment of a second reading."""
    return Moment(at_s=at_s, at=AT, window_s=5.0, stale_s=5.0)


def status(**more: Any) -> bytes:
    """What `/v1/status` says, as the API writes it."""
    told: dict[str, Any] = {
        "level": Level.SHEDDING,
        "reason": "wait",
        "since": datetime(2026, 2, 6, 12, 1, 33, tzinfo=UTC),
        "until": None,
        "governed": True,
        "issuance": "paused",
        "redemption": "open",
        "estimated_wait_ms": 2_410,
        "retry_after_ms": 5_000,
        "admit_ratio": 0.16,
        "campaigns": {
            "qwen-spring-2026": CampaignStatusView(
                issuance="paused",
                resume_at=None,
                starts_at=datetime(2026, 2, 6, 2, tzinfo=UTC),
                ends_at=datetime(2026, 2, 28, 16, tzinfo=UTC),
            )
        },
        "messages": {"en": "Please come back in a moment."},
    }
    return msgspec.json.encode(StatusView(**told | more))


def _every(process: str) -> dict[str, Any]:
    return {
        "tidegate_build_info": {f"version=0.1.0,process={process}": 1},
        "tidegate_process_start_timestamp_seconds": STARTED,
    }


def api(s: int, **more: Any) -> bytes:
    """The API after `s` seconds of a flood: 5,120 offered a second, 812 accepted."""
    shown = _every("api") | {
        "tidegate_intents_answered_total": {
            "answer=accepted": 1_000_000 + 812 * s,
            "answer=replayed": 9_000 + 8 * s,
            "answer=conflict": 3,
            "answer=limited": 2_000_000 + 4_100 * s,
            "answer=not_accepted": 40_000 + 200 * s,
            "answer=issuance_paused": 0,
            "answer=unanswered_no": 0,
            "answer=unanswered_unknown": 1,
        },
        "tidegate_verdicts_total": {
            "class=appointment,verdict=admitted": 300_000 + 480 * s,
            "class=redemption,verdict=admitted": 400_000 + 250 * s,
            "class=order,verdict=admitted": 300_000 + 82 * s,
            "class=redemption,verdict=level": 1_200_000 + 2_600 * s,
            "class=order,verdict=level": 700_000 + 1_450 * s,
            "class=order,verdict=user": 60_000 + 50 * s,
            "class=order,verdict=stock": 40_000 + 200 * s,
            "class=issuance,verdict=level": 0,
        },
        "tidegate_appointments_total": {
            "fate=given": 500_000 + 900 * s,
            "fate=kept": 290_000 + 470 * s,
            "fate=missed": 1_200 + 3 * s,
        },
        "tidegate_http_request_duration_seconds": {
            "route=/v1/intents": [0.004] * (50 + 60 * s) + [0.03] * s
        },
        "tidegate_intake_batch_intents": [40] * (10 + 20 * s),
        "tidegate_intake_stage_seconds": {
            "stage=admit": [0.0012] * (10 + 20 * s),
            "stage=journal": [0.0061] * (10 + 20 * s),
        },
        "tidegate_intake_waiting": 12,
        "tidegate_hints_published_total": {"result=sent": 20 * s, "result=failed": 0},
        "tidegate_outcomes_heard": 1,
    }
    return text(shown | more)


def worker(s: int, **more: Any) -> bytes:
    """A worker: six batches a second."""
    batches = 6 * s
    stages = {"claim": 1.2, "record": 0.8, "gather": 2.1, "decide": 3.0, "apply": 9.8}
    shown = _every("worker") | {
        "tidegate_batches_total": 5_000 + batches,
        "tidegate_batch_intents": [67] * (10 + batches),
        "tidegate_batch_stage_seconds": {
            f"stage={stage}": [ms / 1_000] * (10 + batches) for stage, ms in stages.items()
        },
        "tidegate_sojourn_seconds": [1.9] * (100 + 390 * s) + [2.7] * (5 + 12 * s),
        "tidegate_batch_contentions_total": 4 + s,
        "tidegate_batch_failures_total": 0,
        "tidegate_batch_faults_total": 0,
        "celery_worker_up": {"hostname=w": 1},
        "celery_worker_tasks_active": {"hostname=w": 1},
    }
    return text(shown | more)


def governor(**more: Any) -> bytes:
    """The governor that leads."""
    shown = _every("governor") | {
        "tidegate_governor_leads": 1,
        "tidegate_level": 2,
        "tidegate_level_ordered": 0,
        "tidegate_level_since_timestamp_seconds": AT.timestamp() - 178,
        "tidegate_in_flight": 2_040,
        "tidegate_predicted_wait_seconds": 2.41,
        "tidegate_predicted_wait_then_seconds": 2.40,
        "tidegate_true_wait_seconds": 2.38,
        "tidegate_sojourn_p99_seconds": 2.71,
        "tidegate_service_per_second": 846,
        "tidegate_admitted_per_second": 820,
        "tidegate_decided_heard_total": 990_000,
        "tidegate_dispatch_lag_seconds": 0,
        "tidegate_probe_seconds": {"dependency=postgres": 0.0004, "dependency=valkey": 0.0002},
        "tidegate_postgres_connections_ratio": 0.34,
        "tidegate_valkey_memory_ratio": 0.12,
    }
    return text(shown | more)


def exporter(s: int, **more: Any) -> bytes:
    """The exporter: what the tables hold."""
    at = "campaign=qwen-spring-2026"
    units = {
        "milk-tea-large": (5_000_000, 3_550_000, 0, 1_450_000),
        "lantern-cake": (600, 0, 12, 588),
        "竹筒飯": (20_000, 1_400, 0, 18_600),
    }
    states = ("initial", "available", "reserved", "sold")
    money = dict(zip(states[:3], (3e11, 1.86e11, 4e10), strict=True)) | {"spent": 7.4e10}
    shown = _every("exporter") | {
        "tidegate_postgres_up": 1,
        "tidegate_valkey_up": 1,
        "tidegate_intents_accepted_total": 1_000_000 + 812 * s,
        "tidegate_intents_committed_total": {f"{at},kind=order": 900_000 + 790 * s},
        "tidegate_intents_refused_total": {
            f"{at},kind=order,reason=coupon_unknown": 21_000 + 14 * s,
            f"{at},kind=order,reason=sold_out": 900,
        },
        "tidegate_coupons_issued_total": {at: 1_200_000},
        "tidegate_coupons_redeemed_total": {at: 800_000 + 700 * s},
        "tidegate_open_intents": 2_031,
        "tidegate_open_oldest_age_seconds": 2.4,
        "tidegate_quarantined_intents": 0,
        "tidegate_stock_units": {
            f"{at},sku={sku},state={state}": n
            for sku, some in units.items()
            for state, n in zip(states, some, strict=True)
        },
        "tidegate_budget_minor_units": {
            f"{at},currency=CNY,state={state}": n for state, n in money.items()
        },
        "tidegate_issuance_paused": {at: 1},
        "tidegate_ledger_drift": {"check=stock": 0, "check=budget": 0, "check=sum": 0},
        "tidegate_heartbeat_age_seconds": 4,
        "tidegate_heartbeat_duration_seconds": 2.2,
        "celery_queue_length": {"queue_name=tidegate.orders": 3, "queue_name=tidegate.intake": 0},
    }
    return text(shown | more)


def redispatcher(s: int) -> bytes:
    """The redispatcher."""
    return text(_every("redispatcher") | {"tidegate_redispatched_total": 12 + s})


def relay() -> bytes:
    """The relay."""
    shown = {"tidegate_outbox_waiting": 41, "tidegate_outbox_dead": 0}
    return text(_every("relay") | shown | {"tidegate_outbox_oldest_age_seconds": 0.8})


def flood(s: int = 1) -> list[Seen]:
    """All sources of a deployment in a flood, each heard at second 0 and `s`."""
    return [
        seen(STATUS, status(), status()),
        seen("api", api(0), api(s)),
        seen("governor", governor(), governor()),
        seen("worker-1", worker(0), worker(s)),
        seen("worker-2", worker(0), worker(s)),
        seen("redispatcher", redispatcher(0), redispatcher(s)),
        seen("relay", relay(), relay()),
        seen("exporter", exporter(0), exporter(s)),
    ]


def away(age_s: float = 12.0) -> list[Seen]:
    """The same at second 101, with an exporter that was last heard `age_s` before, and is gone."""
    last = seen("exporter", exporter(0), exporter(1), began_s=100.0 - age_s)
    return [*flood()[:-1], missed(last, "Connection refused")]


def minutes() -> History:
    """Three minutes in which the flood rose."""
    history = History()
    rising = figures_of(flood(), moment())
    for at in range(180):
        share = min(at / 120, 1.0)
        flow = msgspec.structs.replace(
            rising.intents.offered, per_s=(rising.intents.offered.per_s or 0.0) * share
        )
        waits = msgspec.structs.replace(rising.waits, predicted_s=2.41 * share**2)
        intents = msgspec.structs.replace(rising.intents, offered=flow)
        history.add(100.0 + at, msgspec.structs.replace(rising, intents=intents, waits=waits))
    return history
