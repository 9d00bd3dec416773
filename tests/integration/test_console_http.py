"""The console over HTTP: who sees and who pulls; levers dry first, recorded, each key once."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from http_kit import Served, add_gateway, key_of, serve, settings_for
from kit import comes_true

from producer.http.auth import OPERATE, SCOPES, WATCH
from tests.factories import add_campaign, give_coupons, one, open_gate, owner
from workers.store import overview
from workers.store.levels import LevelOrder
from workers.store.pool import OPERATOR, Bounds, connect

LEVEL = "/v1/operator/level"
ISSUANCE = "/v1/operator/campaigns/spring/issuance"
MERCHANT = "/v1/operator/merchants/tea-house"
CLOSE = {"action": "close", "reason": "couriers are full", "for_s": 600, "dry_run": False}
PAUSE = {"action": "pause", "reason": "kitchen full", "dry_run": False}
RESUME = {"action": "resume", "reason": "room again", "dry_run": False}
OPEN = {"action": "open", "reason": "all is well", "dry_run": False}
_keys = itertools.count(1)


@pytest.fixture
def api(dsn: str, valkey_url: str) -> Iterator[Served]:
    """An API with a campaign, a chat gateway, one that watches and one that operates."""
    add_campaign(dsn)
    add_gateway(dsn)
    add_gateway(dsn, "watcher", [WATCH])
    add_gateway(dsn, "ops", [OPERATE])
    open_gate(valkey_url)
    with serve(settings_for(dsn, valkey_url)) as served:
        yield served


def pull(
    api: Served, path: str, body: Any, *, by: str | None = "ops", key: str | None = None
) -> httpx.Response:
    headers = {"idempotency-key": key or f"lever-{next(_keys)}"}
    return api.client(by).post(path, json=body, headers=headers)


def ordered(dsn: str) -> LevelOrder | None:
    with connect(dsn, OPERATOR, Bounds(), name="test") as connection:
        return overview.read(connection, overview.Shown()).ordered


def record(dsn: str) -> list[tuple[str, str, str, str]]:
    with owner(dsn) as connection:
        return connection.execute(
            "SELECT actor, action, subject, reason FROM operator_actions ORDER BY action_id"
        ).fetchall()


# Who may -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [LEVEL, ISSUANCE, MERCHANT])
@pytest.mark.parametrize("who", ["chat", "watcher"])
def test_a_lever_is_refused_to_a_key_without_the_scope(api: Served, path: str, who: str) -> None:
    """A gateway's own scopes, all of them, and seeing everything, are not enough."""
    reply = pull(api, path, CLOSE if path == LEVEL else PAUSE, by=who)
    assert (reply.status_code, reply.json()["code"]) == (403, "scope_missing")
    assert record(api.dsn) == []
    assert ordered(api.dsn) is None


@pytest.mark.parametrize(("who", "status"), [("chat", 403), ("watcher", 200), ("ops", 200)])
def test_who_may_see(api: Served, who: str, status: int) -> None:
    """A gateway sees its own intents, not every tenant's campaigns."""
    assert api.client(who).get("/v1/operator/summary").status_code == status
    with api.client(who).stream("GET", "/v1/operator/summary/stream") as stream:
        assert stream.status_code == status


def test_no_gateway_gets_an_operators_scope_unasked() -> None:
    """A gateway made without naming scopes has those of a chat."""
    assert not {OPERATE, WATCH} & set(SCOPES)


def test_the_role_behind_the_levers_can_do_nothing_else(api: Served) -> None:
    """An operator's connection sells nothing, gives nothing, and reads no keys."""
    for statement in (
        "UPDATE stock SET available = 0",
        "UPDATE budgets SET spent = 0",
        "UPDATE campaigns SET ends_at = now()",
        "UPDATE merchants SET merchant_id = 'x'",
        "INSERT INTO intents SELECT * FROM intents",
        "DELETE FROM open_intents",
        "DELETE FROM operator_actions",
        "UPDATE operator_actions SET actor = 'x'",
        "SELECT * FROM gateway_keys",
        "UPDATE gateways SET scopes = '{operator}'",
    ):
        with connect(api.dsn, OPERATOR, Bounds(), name="test") as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


# Levers --------------------------------------------------------------------------------------------


def test_a_dry_run_says_whom_it_touches_and_does_nothing(api: Served) -> None:
    """Counted in the tables, rolled back, not recorded."""
    give_coupons(api.dsn, ["u-1", "u-2", "u-2"])
    reply = pull(api, LEVEL, {**CLOSE, "dry_run": True})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert (told["dry_run"], told["changed"], told["campaigns"]) == (True, True, 1)
    assert told["touched"] == {"users": 2, "coupons": 3, "in_flight": 0}
    assert told["order"]["level"] == "closed"
    for path in (ISSUANCE, MERCHANT):
        assert pull(api, path, {**PAUSE, "dry_run": True}).json()["touched"]["coupons"] == 3
    assert record(api.dsn) == []
    assert ordered(api.dsn) is None


def test_closing_holds_at_this_api_within_a_second_and_opening_ends_it(api: Served) -> None:
    """By the operator's word, recorded with the gateway's name and the reason."""
    assert pull(api, LEVEL, CLOSE).json()["changed"] is True
    status = api.client()
    assert comes_true(lambda: status.get("/v1/status").json()["level"] == "closed", 5)
    assert api.post(key="while-closed").status_code == 503
    assert pull(api, LEVEL, OPEN).json()["order"] is None
    assert comes_true(lambda: status.get("/v1/status").json()["level"] == "normal", 5)
    assert record(api.dsn) == [
        ("ops", "level closed", "level", "couriers are full"),
        ("ops", "level open", "level", "all is well"),
    ]


def test_any_level_can_be_forced(api: Served) -> None:
    """Until it is lifted, where no time is given."""
    body = {"action": "force", "level": "throttled", "reason": "rehearsal", "dry_run": False}
    assert pull(api, LEVEL, body).json()["order"]["until"] is None
    order = ordered(api.dsn)
    assert order is not None
    assert order.level == "throttled"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ISSUANCE, "SELECT issuance_paused_at IS NOT NULL FROM campaigns"),
        (MERCHANT, "SELECT paused FROM merchants WHERE merchant_id = 'tea-house'"),
    ],
)
def test_a_pause_holds_until_it_is_resumed(api: Served, path: str, query: str) -> None:
    """Of a campaign's issuance, and of a merchant."""
    paused = pull(api, path, {**PAUSE, "for_s": 60})
    assert paused.status_code == 200, paused.text
    assert paused.json()["until"] is not None
    assert one(api.dsn, query) is True
    assert pull(api, path, RESUME).json()["paused"] is False
    assert one(api.dsn, query) is False
    assert [line[1].split()[1].split("-")[0] for line in record(api.dsn)] == ["pause", "resume"]


def test_the_same_key_pulls_a_lever_once(api: Served) -> None:
    """A call whose answer was lost is sent again, and does not undo what came between."""
    assert "idempotent-replayed" not in pull(api, LEVEL, CLOSE, key="k").headers
    assert pull(api, LEVEL, OPEN).json()["changed"] is True
    again = pull(api, LEVEL, CLOSE, key="k")
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.json()["changed"], again.json()["order"]) == (False, None)
    assert ordered(api.dsn) is None
    for path in (ISSUANCE, MERCHANT):
        assert pull(api, path, PAUSE, key=f"k {path}").json()["changed"] is True
        assert pull(api, path, RESUME).json()["changed"] is True
        assert pull(api, path, PAUSE, key=f"k {path}").json()["paused"] is False
    assert len(record(api.dsn)) == 6


def test_a_key_is_for_one_lever_and_of_one_gateway(api: Served) -> None:
    """Another lever by the same key is a conflict; another operator's key is another key."""
    add_gateway(api.dsn, "ops-2", [OPERATE])
    assert pull(api, LEVEL, CLOSE, key="k").status_code == 200
    conflict = pull(api, MERCHANT, PAUSE, key="k")
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")
    assert pull(api, MERCHANT, PAUSE, key="k", by="ops-2").status_code == 200


def test_a_dry_run_binds_no_key(api: Served) -> None:
    """Whoever shows what it does may do it by the same key, and look again."""
    assert pull(api, LEVEL, {**CLOSE, "dry_run": True}, key="k").status_code == 200
    assert pull(api, LEVEL, CLOSE, key="k").json()["changed"] is True
    shown = pull(api, LEVEL, {**CLOSE, "dry_run": True}, key="k").json()
    assert (shown["changed"], shown["repeated"], shown["campaigns"]) == (True, False, 1)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (LEVEL, {**CLOSE, "level": "closed"}, "level"),
        (LEVEL, {**CLOSE, "action": "force"}, "level"),
        (LEVEL, {**OPEN, "for_s": 5}, "for_s"),
        (LEVEL, {**CLOSE, "for_s": 0}, "for_s"),
        (LEVEL, {**CLOSE, "for_s": 1.5}, "for_s"),
        (LEVEL, {**CLOSE, "reason": " "}, "reason"),
        (LEVEL, {**CLOSE, "reason": "two\nlines"}, "reason"),
        (LEVEL, {**CLOSE, "reason": "r" * 501}, "reason"),
        (LEVEL, {**CLOSE, "dry_run": "no"}, "dry_run"),
        (LEVEL, {"action": "close", "reason": "why"}, "dry_run"),
        (LEVEL, {**CLOSE, "actor": "somebody else"}, "actor"),
        (MERCHANT, {**RESUME, "for_s": 60}, "for_s"),
        (ISSUANCE, {**PAUSE, "level": "closed"}, "level"),
    ],
)
def test_a_body_that_is_not_quite_a_lever_is_refused(
    api: Served, path: str, body: Any, field: str
) -> None:
    """A lever is not guessed."""
    reply = pull(api, path, body)
    assert reply.status_code == 400, reply.text
    assert [error["field"] for error in reply.json()["errors"]] == [field]
    assert record(api.dsn) == []


def test_a_lever_needs_an_idempotency_key(api: Served) -> None:
    """Without one it could not be sent again safely."""
    reply = api.client("ops").post(LEVEL, json=CLOSE)
    assert (reply.status_code, reply.json()["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("path", ["campaigns/nothing/issuance", "merchants/nobody"])
def test_there_must_be_something_to_pull(api: Served, path: str) -> None:
    """A name that was mistyped pauses nothing in silence."""
    reply = pull(api, f"/v1/operator/{path}", PAUSE)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


# Watching ------------------------------------------------------------------------------------------


def events(stream: httpx.Response, count: int) -> list[tuple[str, Any]]:
    """The first events of a stream."""
    found: list[tuple[str, Any]] = []
    for line in stream.iter_lines():
        name, _, rest = line.partition(": ")
        if name == "event":
            found.append((rest, None))
        elif name == "data":
            found[-1] = (found[-1][0], json.loads(rest))
            if len(found) == count:
                break
    return found


def test_the_stream_tells_who_watches_then_how_it_goes_each_second(api: Served) -> None:
    """And what is sold in between is in the next summary."""
    with api.client("watcher").stream("GET", "/v1/operator/summary/stream") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        told = events(stream, 3)
    assert [name for name, _ in told] == ["viewer", "trail", "summary"]
    assert told[0][1] == {"gateway_id": "watcher", "levers": False}
    assert told[2][1]["campaigns"][0]["stock"]["sold"] == 0
    api.committed()
    summary = api.client("ops").get("/v1/operator/summary")
    assert comes_true(lambda: _sold(api) == 1, 5), summary.text


def _sold(api: Served) -> int:
    found = api.client("ops").get("/v1/operator/summary").json()
    stock = found["campaigns"][0]["stock"]
    return int(stock["sold"] + stock["reserved"])


def test_a_summary_names_orders_pauses_and_what_operators_did(api: Served) -> None:
    """What another operator wants to know before pulling anything."""
    pull(api, LEVEL, CLOSE)
    pull(api, MERCHANT, PAUSE)
    pull(api, ISSUANCE, PAUSE)

    def told() -> Any:
        return api.client("watcher").get("/v1/operator/summary").json()

    assert comes_true(lambda: len(told()["acts"]) == 3, 5)
    found = told()
    assert found["level"]["ordered"]["reason"] == "couriers are full"
    assert found["merchants"] == [
        {"merchant_id": "tea-house", "paused": {"until": None, "reason": "kitchen full"}}
    ]
    assert found["campaigns"][0]["paused"]["reason"] == "kitchen full"
    assert {act["actor"] for act in found["acts"]} == {"ops"}
    assert all(one["up"] for one in found["dependencies"] if one["name"] != "Governor")


def test_many_viewers_cost_the_database_one_reading_a_second(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty at once, for as long as three readings take."""
    reads: list[float] = []
    read = overview.read

    def counted(*arguments: Any, **named: Any) -> Any:
        reads.append(time.monotonic())
        return read(*arguments, **named)

    monkeypatch.setattr(overview, "read", counted)
    clients = [api.client("watcher") for _ in range(20)]
    while len(reads) < 4:
        for client in clients:
            assert client.get("/v1/operator/summary").status_code == 200
    # A look may begin a tick early; never more of them than seconds, and the first.
    assert len(reads) <= reads[-1] - reads[0] + 1.5


def test_a_revoked_key_sees_no_more(api: Served) -> None:
    """Its open stream ends by itself."""
    client = api.client("watcher")
    with client.stream("GET", "/v1/operator/summary/stream") as stream:
        lines = stream.iter_lines()
        summaries = (line for line in lines if line.startswith("data:"))
        for _ in range(2):
            assert next(summaries)
        with owner(api.dsn) as connection:
            connection.execute(
                "UPDATE gateway_keys SET revoked_at = now() WHERE key_id = 'watcher'"
            )
        deadline = time.monotonic() + 30
        for _ in lines:
            assert time.monotonic() < deadline, "the stream goes on"
    assert client.get("/v1/operator/summary").status_code == 401


def test_without_valkey_and_postgresql_the_summary_says_so(dsn: str, valkey_url: str) -> None:
    """The console is for exactly that hour."""
    add_gateway(dsn, "watcher", [WATCH])
    with serve(settings_for(dsn, "redis://127.0.0.1:1/0")) as served:
        client = served.client("watcher")
        up = {"PostgreSQL": True, "Valkey": False, "Broker": False, "Governor": False}

        def told() -> Any:
            found = client.get("/v1/operator/summary").json()["dependencies"]
            return {one["name"]: one["up"] for one in found}

        assert comes_true(lambda: told() == up, 10), told()
        assert comes_true(
            lambda: client.get("/v1/operator/summary").json()["level"]["level"] == "closed", 10
        )


def test_the_page_needs_no_key_and_holds_no_data(api: Served) -> None:
    """And is told to be kept nowhere and framed by nobody."""
    page = api.client(None).get("/console")
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "set-cookie" not in page.headers
    assert "spring" not in page.text
    assert api.client(None).get("/console/console.js").status_code == 200
    assert api.client(None).get("/console/..%2fpage.py").status_code == 404
    assert key_of("ops") not in page.text
