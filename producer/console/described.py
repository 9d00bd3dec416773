"""The console's operations, as they are documented."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from producer.console.pulling import LevelLever, PauseLever
from producer.console.summary import SummaryShown
from producer.http.operation import BODIED, JSON, KEYED, WHO, Answer, Operation
from producer.http.parameters import READING, Field
from producer.http.problems import Code
from workers.store.levels import LevelChange
from workers.store.levers import Pause

_UNITS: Final = {"initial": 5_000, "available": 3_900, "reserved": 100, "sold": 1_000}
_BUDGET: Final = {"initial": 9_000_000, "available": 6_000_000, "reserved": 500_000}
_ORDER: Final = {
    "level": "closed",
    "reason": "couriers are full",
    "ordered_at": "2026-02-06T04:00:00Z",
    "until": "2026-02-06T04:10:00Z",
}
SUMMARY: Final[dict[str, Any]] = {
    "at": "2026-02-06T04:00:00Z",
    "read_at": "2026-02-06T04:00:00Z",
    "level": {
        "level": "throttled",
        "reason": "wait",
        "since": "2026-02-06T03:58:20Z",
        "until": None,
        "governed": True,
        "ordered": None,
    },
    "rates": {
        "at": 1_770_350_400.0,
        "offered": 9_200.0,
        "admitted": 7_400.0,
        "refused": 1_800.0,
        "committed": 7_300.0,
        "predicted_ms": 900,
        "true_ms": 870,
    },
    "committed": 1_020_000,
    "waits": {
        "predicted_ms": 900,
        "true_ms": 870,
        "service_per_s": 7_450.0,
        "admitted_per_s": None,
    },
    "refusals": [{"where": "gate", "reason": "stock", "last_minute": 5_400, "total": 8_000}],
    "queue": {
        "open": 6_600,
        "oldest_age_s": 0.92,
        "in_flight": 6_700,
        "hints": 3,
        "pending": 40,
        "quarantined": 0,
        "workers": 4,
    },
    "dependencies": [{"name": "PostgreSQL", "up": True}],
    "campaigns": [
        {
            "campaign_id": "qwen-spring-2026",
            "currency": "CNY",
            "paused": None,
            "budget": {**_BUDGET, "spent": 2_500_000},
            "stock": _UNITS,
            "items": [{**_UNITS, "sku": "milk-tea-large"}],
        }
    ],
    "merchants": [
        {"merchant_id": "tea-house", "paused": {"until": None, "reason": "kitchen full"}}
    ],
    "acts": [
        {
            "at": "2026-02-06T03:59:00Z",
            "actor": "operations",
            "action": "merchant pause",
            "subject": "merchant:tea-house",
            "reason": "kitchen full",
        }
    ],
}
_EVENTS: Final = (
    'event: viewer\ndata: {"gateway_id":"operations","levers":true}\n\n'
    "event: trail\ndata: []\n\nevent: summary\ndata: {}\n\n"
)
_CHANGED_LEVEL: Final[dict[str, Any]] = {
    "dry_run": True,
    "changed": True,
    "order": _ORDER,
    "before": None,
    "touched": {"users": 12_000, "coupons": 30_000, "in_flight": 6_600},
    "campaigns": 1,
    "repeated": False,
}
_PAUSED: Final[dict[str, Any]] = {
    "subject": "tea-house",
    "dry_run": False,
    "changed": True,
    "paused": True,
    "until": None,
    "reason": "kitchen full",
    "touched": None,
    "items": None,
    "units": None,
    "repeated": False,
}
_PAUSE: Final = {"action": "pause", "reason": "kitchen full", "dry_run": False, "for_s": 1_800}
_KEY: Final = Field(
    "Idempotency-Key",
    "header",
    "One key for one pull of one lever, the same when sending it again: it takes effect once."
    " Scoped to the gateway. A dry run binds none.",
    {"type": "string", "minLength": 1},
    required=True,
)
_PULLED: Final = (
    *KEYED,
    *BODIED,
    *WHO,
    Code.NOT_FOUND,
    Code.IDEMPOTENCY_CONFLICT,
    Code.READING_UNAVAILABLE,
    Code.CHANGE_UNCONFIRMED,
)
_WATCHED: Final = (*WHO, Code.READING_UNAVAILABLE)
_TEXTS: Final = {"type": "string"}


def _id(name: str, description: str) -> Field:
    return Field(name, "path", description, {"type": "string"}, required=True)


OPERATIONS: Final[Sequence[Operation]] = (
    Operation(
        "getSummary",
        "get",
        "/v1/operator/summary",
        "Watch the whole system: level, rates, waits, refusals, queue, campaigns. Needs the scope"
        " `operator:read` or `operator`",
        "operator:read",
        (Answer(200, "How it goes; at most a second old.", JSON, SummaryShown, SUMMARY),),
        _WATCHED,
        READING,
    ),
    Operation(
        "getSummaryStream",
        "get",
        "/v1/operator/summary/stream",
        "Watch the same each second",
        "operator:read",
        (
            Answer(
                200,
                "Server-sent events: `viewer` (who watches, and whether the key pulls levers),"
                " `trail` (the rates of the minutes before), then `summary` each second. The stream"
                " ends when the key is revoked.",
                "text/event-stream",
                _TEXTS,
                _EVENTS,
            ),
        ),
        (*_WATCHED, Code.REDUCED_CAPACITY),
        READING,
    ),
    Operation(
        "postLevel",
        "post",
        "/v1/operator/level",
        "Order a level for the whole system, or lift the order; or, dry, say whom it would touch",
        "operator",
        (
            Answer(
                200,
                "What changed, or would. A key that was used before changes nothing"
                " (`Idempotent-Replayed: true`), and is told how it stands.",
                JSON,
                LevelChange,
                _CHANGED_LEVEL,
                ("Idempotent-Replayed",),
            ),
        ),
        _PULLED,
        (_KEY, *READING),
        {
            JSON: (
                LevelLever,
                {"action": "close", "for_s": 600, "reason": "couriers are full", "dry_run": True},
            )
        },
    ),
    *(
        Operation(
            name,
            "post",
            path,
            f"{summary}; or, dry, say whom it would touch",
            "operator",
            (
                Answer(
                    200,
                    "How it stands now, or would.",
                    JSON,
                    Pause,
                    _PAUSED,
                    ("Idempotent-Replayed",),
                ),
            ),
            _PULLED,
            (subject, _KEY, *READING),
            {JSON: (PauseLever, _PAUSE)},
        )
        for name, path, summary, subject in (
            (
                "postIssuance",
                "/v1/operator/campaigns/{campaign_id}/issuance",
                "Pause or resume giving out a campaign's coupons",
                _id("campaign_id", "The campaign."),
            ),
            (
                "postMerchant",
                "/v1/operator/merchants/{merchant_id}",
                "Pause or resume selling a merchant's goods",
                _id("merchant_id", "The merchant."),
            ),
        )
    ),
    Operation(
        "getConsole",
        "get",
        "/console",
        "Open the operators' console in a browser; it asks for a key",
        None,
        (Answer(200, "The page.", "text/html", _TEXTS, "<!doctype html>"),),
    ),
    Operation(
        "getConsoleFile",
        "get",
        "/console/{file}",
        "Read a part of the console's page",
        None,
        (Answer(200, "The part.", "text/css", _TEXTS, ":root { color-scheme: light dark }"),),
        (Code.NOT_FOUND,),
        (_id("file", "The part's name."),),
    ),
)
