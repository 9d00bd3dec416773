"""The HTTP surface: strict bodies, batches, events, health, and a description true to it all."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
import redis
from http_kit import ISSUANCE, ORDER, Served, add_gateway, key_of, serve, settings_for

from producer.http.routes import ROUTES
from tests.factories import add_campaign, open_gate
from workers.contract.ids import uuid7

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def api(servers: Any, migrated_template: str) -> Iterator[Served]:
    """One API for all tests of this module: what they post does not meet."""
    dsn = servers.dsn.rpartition("/")[0]
    with psycopg.connect(f"{dsn}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE surface TEMPLATE {migrated_template}")
    with redis.Redis.from_url(servers.valkey_url) as client:
        client.flushall()
    dsn = f"{dsn}/surface"
    add_campaign(dsn, stock={"tea": 100_000, "bun": 100_000}, orders_per_user_max=100_000)
    add_gateway(dsn)
    add_gateway(dsn, "reader", ["intents:read"])
    open_gate(servers.valkey_url)
    with serve(settings_for(dsn, servers.valkey_url)) as served:
        yield served


_numbers = itertools.count(1)


def fresh_key() -> str:
    return f"surface-{next(_numbers)}"


def item(**fields: Any) -> dict[str, Any]:
    """One intent of a batch."""
    return {**ORDER, "idempotency_key": fresh_key(), **fields}


# Strictness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        (json.dumps({**ORDER, "discount": 100}), 400, "discount"),
        (json.dumps({**ORDER, "ttl_ms": 1.5}), 400, "ttl_ms"),
        (json.dumps({**ORDER, "ttl_ms": True}), 400, "ttl_ms"),
        (json.dumps({**ORDER, "ttl_ms": 2**63}), 400, "ttl_ms"),
        (json.dumps({**ORDER, "user_id": "u" * 129}), 400, "user_id"),
        (json.dumps({**ORDER, "ttl_ms": float("nan")}), 400, None),
        (json.dumps({**ORDER, "user_id": "\ud800"}), 400, None),
        (json.dumps(ORDER).encode().replace(b"u-1", b"\xff"), 400, None),
        ('{"lines":' + "[" * 4_000, 400, "lines[0]"),
        ("", 400, None),
        (json.dumps({**ORDER, "conversation_id": "c" * 9 * 1_024}), 413, None),
    ],
)
def test_a_body_that_is_not_an_intent_is_refused_and_the_field_named(
    api: Served, content: str | bytes, status: int, field: str | None
) -> None:
    """Nothing is coerced and nothing skipped; the problem says where to look."""
    headers = {**JSON, "idempotency-key": fresh_key()}
    reply = api.client().post("/v1/intents", content=content, headers=headers)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    told = reply.json()
    assert [error["field"] for error in told.get("errors", [])] == ([field] if field else [])


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_what_is_not_json_in_utf_8_is_an_unsupported_type(
    api: Served, headers: dict[str, str]
) -> None:
    """The type is taken at its word."""
    headers = {**headers, "idempotency-key": fresh_key()}
    reply = api.client().post("/v1/intents", content=json.dumps(ORDER), headers=headers)
    assert reply.status_code == 415


def test_an_oversized_body_is_refused_however_it_is_sent(api: Served) -> None:
    """Declared or chunked, no more than the bound is read."""
    headers = {**JSON, "idempotency-key": fresh_key()}

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1_024

    for content in (b" " * 9_000, endless()):
        reply = api.client().post("/v1/intents", content=content, headers=headers)
        assert reply.status_code == 413
        assert reply.json()["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "idempotency_key_missing"),
        ({"idempotency-key": ""}, "idempotency_key_invalid"),
        ({"idempotency-key": '"half'}, "idempotency_key_invalid"),
        ({"idempotency-key": "k" * 256}, "idempotency_key_invalid"),
    ],
)
def test_an_intent_needs_a_key(api: Served, headers: dict[str, str], code: str) -> None:
    """Without a key nothing could be asked again."""
    reply = api.client().post("/v1/intents", json=ORDER, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, code)


def test_two_different_keys_on_one_call_are_refused(api: Served) -> None:
    """Proxies that double a header must not choose the key."""
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert api.client().post("/v1/intents", json=ORDER, headers=headers).status_code == 400
    key = fresh_key()
    same = [("idempotency-key", key), ("idempotency-key", key)]
    assert api.client().post("/v1/intents", json=ORDER, headers=same).status_code == 202


def test_who_calls_without_a_good_key_learns_nothing(api: Served) -> None:
    """401 without or with a wrong key, 403 without the scope; on every route of `/v1`."""
    for path, handlers in ROUTES.items():
        if not path.startswith("/v1"):
            continue
        for method in handlers:
            asked = path.replace("{user_id}", "u").replace("{", "").replace("}", "")
            for client in (api.client(None), api.client(None, authorization="Bearer tg_wrong")):
                reply = client.request(method, asked, json={})
                assert reply.status_code == 401, (method, asked)
                assert reply.headers["www-authenticate"].startswith("Bearer")
    reply = api.client("reader").post("/v1/intents", json=ORDER, headers={"idempotency-key": "x"})
    assert (reply.status_code, reply.json()["code"]) == (403, "scope_missing")
    assert "intents:write" in reply.json()["detail"]


def test_what_is_not_served_says_so(api: Served) -> None:
    """Unknown paths, unknown ids and other methods are problems too."""
    client = api.client()
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/v1/intents/").status_code == 404
    assert client.get("/v1/intents/not-an-id").status_code == 404
    assert client.get(f"/v1/intents/{uuid7()}").status_code == 404
    wrong = client.delete("/v1/intents")
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    for reply in (client.get("/v1/nothing"), wrong):
        assert reply.headers["content-type"] == "application/problem+json"


def test_the_trace_of_the_caller_is_told_in_problems(api: Served) -> None:
    """Support finds the call by the caller's own trace."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert api.client().get("/v1/nothing", headers=headers).json()["trace_id"] == trace


def test_no_secret_or_internal_is_told(api: Served) -> None:
    """Problems hold our own words: no key, no SQL, no exception."""
    client = api.client()
    texts = [
        client.get("/v1/users/a%00b/coupons").text,
        client.get("/v1/intents", params={"user_id": "a\x00b", "idempotency_key": "k"}).text,
        client.get("/v1/intents?user_id=%ff&idempotency_key=k").text,
        client.post("/v1/coupons", json={**ISSUANCE, "campaign_id": "';--"}).text,
    ]
    for text in texts:
        told = json.loads(text)
        assert told["status"] in (400, 404), text
        assert key_of("chat") not in text
        assert "psycopg" not in text


# Batches ---------------------------------------------------------------------------------------


def test_a_batch_answers_each_intent_in_order(api: Served) -> None:
    """One result each, what the single call would have answered, as an array."""
    items = [item(), item(ttl_ms=1), item(lines=[]), item(user_id="u-2")]
    reply = api.client().post("/v1/intents/batch", json=items)
    assert reply.status_code == 200
    results = reply.json()
    assert [result["status_code"] for result in results] == [202, 400, 400, 202]
    assert set(results[0]) == {"status_code", "intent_id", "status", "estimated_wait_ms"} | {
        "poll_after_ms"
    }
    assert results[1]["errors"][0]["field"] == "ttl_ms"


def test_a_malformed_line_spoils_no_neighbour(api: Served) -> None:
    """NDJSON is answered in NDJSON, line by line."""
    lines = [json.dumps(item()), "{not json", "[]", '"\\ud800', json.dumps(item()), ""]
    reply = api.client().post("/v1/intents/batch", content="\n".join(lines), headers=NDJSON)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    results = [json.loads(line) for line in reply.text.splitlines()]
    assert [result["status_code"] for result in results] == [202, 400, 400, 400, 202]


def test_an_oversized_intent_spoils_no_neighbour(api: Served) -> None:
    """8 KiB for each intent, in a batch as well."""
    items = [item(), item(conversation_id="c" * 9_000), item()]
    results = api.client().post("/v1/intents/batch", json=items).json()
    assert [result["status_code"] for result in results] == [202, 413, 202]


def test_a_key_said_twice_in_one_batch_is_a_replay_or_a_conflict_of_the_first(api: Served) -> None:
    """The first one in the batch is the intent; order decides, not chance."""
    key = fresh_key()
    items = [
        item(idempotency_key=key),
        item(),
        item(idempotency_key=key),
        item(idempotency_key=key, lines=[{"sku": "bun", "quantity": 1}]),
        item(idempotency_key=key, user_id="u-2"),
    ]
    results = api.client().post("/v1/intents/batch", json=items).json()
    assert [result["status_code"] for result in results] == [202, 202, 202, 422, 202]
    assert results[2]["intent_id"] == results[0]["intent_id"]
    assert results[2]["idempotent_replayed"] is True
    assert "idempotent_replayed" not in results[0]
    assert results[4]["intent_id"] != results[0]["intent_id"]


def test_an_intent_of_a_batch_and_one_posted_alone_share_their_key(api: Served) -> None:
    """A gateway may repeat either way what it posted the other way."""
    key = fresh_key()
    alone = api.post(key=key).json()
    [within] = api.client().post("/v1/intents/batch", json=[item(idempotency_key=key)]).json()
    assert (within["status_code"], within["intent_id"]) == (202, alone["intent_id"])


def test_500_intents_fit_and_501_do_not(api: Served) -> None:
    """The bound is on count and on bytes; the whole batch is refused before any of it is taken."""
    client = api.client()
    results = client.post("/v1/intents/batch", json=[item() for _ in range(500)]).json()
    assert {result["status_code"] for result in results} == {202}
    assert len({result["intent_id"] for result in results}) == 500
    assert client.post("/v1/intents/batch", json=[item()] * 501).status_code == 413
    huge = client.post("/v1/intents/batch", content=b"[" + b" " * (1 << 20), headers=JSON)
    assert huge.status_code == 413


@pytest.mark.parametrize("content", ["", "[]", "{}", "[", "null", "[" * 100_000])
def test_a_batch_that_is_no_array_is_refused_whole(api: Served, content: str) -> None:
    """Where the items end cannot be known."""
    reply = api.client().post("/v1/intents/batch", content=content, headers=JSON)
    assert reply.status_code == 400


# Events ----------------------------------------------------------------------------------------


def test_events_tell_the_acceptance_and_then_the_outcome(api: Served) -> None:
    """The stream ends by itself after the outcome."""
    intent_id = api.post(key=fresh_key()).json()["intent_id"]
    threading.Timer(0.3, api.work).start()
    events = _events(api, intent_id)
    assert [(event["id"], event["event"]) for event in events] == [
        ("1", "accepted"),
        ("2", "outcome"),
    ]
    told = [json.loads(event["data"]) for event in events]
    assert [one["status"] for one in told] == ["accepted", "committed"]
    assert {one["intent_id"] for one in told} == {intent_id}


def test_events_resume_after_the_last_one_heard(api: Served) -> None:
    """Nothing is told twice to a client that says what it heard."""
    intent_id = str(api.committed())
    assert [event["id"] for event in _events(api, intent_id)] == ["1", "2"]
    assert [event["id"] for event in _events(api, intent_id, "1")] == ["2"]
    assert [event["id"] for event in _events(api, intent_id, "junk")] == ["1", "2"]


def test_who_has_heard_the_outcome_is_told_not_to_come_again(api: Served) -> None:
    """A browser's EventSource reconnects after every other end of a stream, for ever."""
    events = f"/v1/intents/{api.committed()}/events"
    client = api.client()
    for _ in range(2):
        reply = client.get(events, headers={"last-event-id": "2"})
        assert (reply.status_code, reply.content) == (204, b"")
        assert "content-length" not in reply.headers
        assert "transfer-encoding" not in reply.headers
    assert client.head(events, headers={"last-event-id": "2"}).status_code == 204


def _events(api: Served, intent_id: str, last: str | None = None) -> list[dict[str, str]]:
    headers = {} if last is None else {"last-event-id": last}
    with api.client().stream("GET", f"/v1/intents/{intent_id}/events", headers=headers) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        text = "".join(stream.iter_text())
    blocks = [block.splitlines() for block in text.split("\n\n") if block]
    events = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [event for event in events if "data" in event]


# Health and description ------------------------------------------------------------------------


def test_health_speaks_of_the_process_and_verbosely_of_its_dependencies(api: Served) -> None:
    """The code is the contract; the lines are for people."""
    client = api.client(None)
    assert client.get("/livez").text == "ok\n"
    assert client.get("/readyz").status_code == 200
    lines = client.get("/readyz?verbose").text.splitlines()
    assert lines[:2] == ["[+]serving ok", "[+]postgres ok"]
    assert "[+]valkey ok" in lines
    assert "[+]keys ok" in lines


def test_metrics_count_the_answers(api: Served) -> None:
    """Prometheus reads the process's series and ours."""
    api.post(key=fresh_key())
    text = api.client(None).get("/metrics").text
    assert 'tidegate_intents_answered_total{answer="accepted"}' in text
    assert "tidegate_intake_batch_intents_bucket" in text
    assert "process_cpu_seconds_total" in text


def test_a_problems_type_leads_to_what_mends_it(api: Served) -> None:
    """The type is a path of this API."""
    client = api.client()
    problem = client.get("/v1/nothing").json()
    meaning = client.get(problem["type"])
    assert meaning.status_code == 200
    assert meaning.json()["what_to_do"]
    assert set(meaning.json()["messages"]) == {"zh-CN", "en", "el"}
    assert client.get("/problems/no_such").status_code == 404


def test_every_status_that_was_met_is_documented(api: Served) -> None:
    """Runs last in this module: the description names every answer the tests above have seen."""
    description = httpx.get(f"{api.url}/openapi.json").json()
    undocumented = set()
    for method, path, status in api.statuses:
        if status == 405 or _template(path) is None:
            continue  # of a method or a path that is not there to be documented
        operation = description["paths"][_template(path)].get(method.lower())
        if operation is not None and str(status) not in operation["responses"]:
            undocumented.add((method, path, status))
    assert undocumented == set()
    assert len({status for _, _, status in api.statuses}) >= 9


def _template(path: str) -> str | None:
    parts = path.split("/")
    for template in sorted(ROUTES, key=lambda known: known.count("{")):
        known = template.split("/")
        if len(known) == len(parts) and all(
            a == b or a.startswith("{") for a, b in zip(known, parts, strict=True)
        ):
            return template
    return None
