"""`tidegate webhook`, as an operator types it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import Webhook
from webhook_kit import Reply, receiving

from deploy.cli import faults, main
from tests.factories import MASTER, one, owner
from workers.store import gateways

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def aimed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aim commands at this test's database, on a developer's machine; there is a gateway."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", dsn)
    monkeypatch.setenv("TIDEGATE_SECRETS__MASTER", MASTER)
    monkeypatch.setenv("TIDEGATE_WEBHOOKS__ALLOW_PRIVATE", "true")
    with owner(dsn) as connection:
        gateways.create_gateway(connection, "chat", ["intents:write"], actor="test")


def run(*arguments: str) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


def told(capsys: Captured, *arguments: str, code: int = 0) -> Any:
    """Run a command; return what it printed as JSON."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def actions(dsn: str) -> list[tuple[str, str, str | None]]:
    """What the operators' record says of endpoints."""
    with owner(dsn) as connection:
        return connection.execute(
            "SELECT action, subject, reason FROM operator_actions "
            "WHERE subject LIKE 'webhook:%' ORDER BY action_id"
        ).fetchall()


def test_an_endpoint_is_registered_tested_and_verified_with_the_secret_that_was_shown(
    capsys: Captured, dsn: str
) -> None:
    """The secret is printed once, and kept nowhere."""
    with receiving(lambda _: Reply(200, {}, b"thank you")) as receiver:
        made = told(capsys, "webhook", "register", "chat", receiver.url, "--reason", "go")
        answer = told(capsys, "webhook", "test", str(made["endpoint_id"]))
        assert (answer["delivered"], answer["status"], answer["body"]) == (True, 200, "thank you")
        (hit,) = receiver.hits
        event = Webhook(made["secret"]).verify(hit.body, hit.headers)
        assert (event["type"], event["id"]) == ("tidegate.test", answer["webhook_id"])
    listed = told(capsys, "webhook", "list")
    assert [endpoint["url"] for endpoint in listed] == [receiver.url]
    for table in ("webhook_endpoints", "operator_actions"):
        kept = one(dsn, f"SELECT string_agg(t::text, ' ') FROM {table} t")
        assert made["secret"].removeprefix("whsec_") not in kept + json.dumps(listed, default=str)
    assert actions(dsn) == [
        ("webhook register", "webhook:1", "go"),
        ("webhook test", "webhook:1", None),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://93.184.215.14/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://user:word@hooks.example/",
        "https://8.8.8.8:22/",
    ],
)
def test_what_may_not_be_called_is_not_registered(
    url: str, capsys: Captured, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1, with the reason."""
    monkeypatch.setenv("TIDEGATE_WEBHOOKS__ALLOW_PRIVATE", "false")
    assert run("webhook", "register", "chat", url) == faults.NOT_FINE
    assert "nothing of ours is sent" in capsys.readouterr().err
    assert one(dsn, "SELECT count(*) FROM webhook_endpoints") == 0


def test_a_dry_run_registers_nothing(capsys: Captured, dsn: str) -> None:
    """But checks the URL and the types."""
    given = ("webhook", "register", "chat", "http://127.0.0.1:9/", "--dry-run")
    found = told(capsys, *given, "--events", "tidegate.intent.refused,tidegate.level.changed")
    assert found["events"] == ["tidegate.intent.refused", "tidegate.level.changed"]
    assert one(dsn, "SELECT count(*) FROM webhook_endpoints") == 0


def test_a_test_that_fails_says_what_was_answered(capsys: Captured) -> None:
    """Exit 1."""
    with receiving(lambda _: Reply(404, {}, b"no such hook")) as receiver:
        told(capsys, "webhook", "register", "chat", receiver.url)
        answer = told(capsys, "webhook", "test", "1", code=faults.NOT_FINE)
    assert (answer["status"], answer["body"], answer["delivered"]) == (404, "no such hook", False)
    answer = told(capsys, "webhook", "test", "1", code=faults.NOT_FINE)
    assert answer["status"] is None
    assert answer["error"].startswith("connection: ")


def test_a_replay_says_first_how_many_and_then_queues_them(capsys: Captured, dsn: str) -> None:
    """By time, by event, by intent, by type, or what was given up."""
    told(capsys, "webhook", "register", "chat", "http://127.0.0.1:9/")
    first, second = uuid4(), uuid4()
    with owner(dsn) as connection:
        for subject, event, at, dead in (
            (first, "tidegate.intent.committed", "2026-02-06 10:00Z", False),
            (first, "tidegate.order.cancelled", "2026-02-06 11:00Z", False),
            (second, "tidegate.intent.committed", "2026-02-06 12:00Z", True),
        ):
            connection.execute(
                "INSERT INTO outbox (endpoint_id, subject_id, event, occurred_at, settled_at, dead)"
                " VALUES (1, %s, %s, %s, now(), %s)",
                (subject, event, at, dead),
            )
    for given, count in (
        (("--since", "2026-02-06T11:00:00"), 2),
        (("--event", f"evt_{first.hex}_cancelled"), 1),
        (("--event", str(first)), 2),
        (("--event", "tidegate.intent.committed"), 2),
        (("--event", "tidegate.intent.committed", "--since", "2026-02-06T11:30"), 1),
        (("--dead",), 1),
        (("--since", "2027-01-01"), 0),
    ):
        found = told(capsys, "webhook", "replay", "1", *given, "--dry-run")
        assert (found["events"], found["dry_run"]) == (count, True), given
    assert one(dsn, "SELECT count(*) FROM outbox WHERE settled_at IS NULL") == 0
    assert told(capsys, "webhook", "replay", "1", "--dead")["events"] == 1
    assert one(dsn, "SELECT subject_id FROM outbox WHERE settled_at IS NULL") == second
    assert actions(dsn)[-1][0] == "webhook replay"


def test_an_endpoint_is_disabled_enabled_and_given_another_secret(
    capsys: Captured, dsn: str
) -> None:
    """Each once, and each kept in the record."""
    made = told(capsys, "webhook", "register", "chat", "http://127.0.0.1:9/")
    assert [told(capsys, "webhook", "disable", "1")["changed"] for _ in range(2)] == [True, False]
    assert told(capsys, "webhook", "list")[0]["disabled_reason"] == "operator"
    assert [told(capsys, "webhook", "enable", "1")["changed"] for _ in range(2)] == [True, False]
    assert told(capsys, "webhook", "rotate", "1")["secret"] != made["secret"]
    assert [action for action, _, _ in actions(dsn)] == [
        *("webhook register", "webhook disable", "webhook enable", "webhook rotate"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "1", "--dead"), "`tidegate webhook enable 1` first"),
        (("replay", "1", "--dead", "--dry-run"), "`tidegate webhook enable 1` first"),
        (("replay", "1", "--event", "evt_level_1000_closed"), "tidegate.level.changed --since T"),
        (("enable", "7"), "`tidegate webhook list`"),
        (("register", "none", "http://127.0.0.1:9/"), "`tidegate gateway list`"),
    ],
)
def test_what_cannot_be_done_says_what_to_do_instead(
    capsys: Captured, arguments: tuple[str, ...], said: str
) -> None:
    """Nothing is replayed to an endpoint that hears nothing."""
    told(capsys, "webhook", "register", "chat", "http://127.0.0.1:9/")
    told(capsys, "webhook", "disable", "1")
    assert run("webhook", *arguments) != 0
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_same_is_told_to_people(capsys: Captured) -> None:
    """Every command prints text that names what it was about."""
    for arguments, words in (
        (("list",), ["no endpoint"]),
        (("register", "chat", "http://127.0.0.1:9/"), ["whsec_", "not shown again"]),
        (("list",), ["http://127.0.0.1:9/", "enabled", "0 to be delivered", "order.expired"]),
        (("rotate", "1"), ["whsec_"]),
        (("replay", "1", "--dead", "--dry-run"), ["0 events would be"]),
        (("disable", "1"), ["endpoint 1 disabled"]),
        (("list",), ["operator"]),
        (("enable", "1"), ["endpoint 1 enabled"]),
    ):
        assert run("webhook", *arguments) == 0, arguments
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == [], printed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("register", "nobody", "http://127.0.0.1:9/"), faults.NOT_FINE),
        (("register", "chat", "http://127.0.0.1:9/", "--events", "order"), faults.WRONG_USAGE),
        (("register", "chat", "http://127.0.0.1:9/", "--events", ","), faults.WRONG_USAGE),
        (("test", "7"), faults.NOT_FINE),
        (("rotate", "7"), faults.NOT_FINE),
        (("enable", "7"), faults.NOT_FINE),
        (("replay", "7", "--dead"), faults.NOT_FINE),
        (("replay", "1"), faults.WRONG_USAGE),
        (("replay", "1", "--event", "nonsense"), faults.WRONG_USAGE),
        (("replay", "1", "--since", "yesterday"), faults.WRONG_USAGE),
        (("test", "one"), faults.WRONG_USAGE),
    ],
)
def test_what_cannot_be_done_has_its_exit_code(arguments: tuple[str, ...], code: int) -> None:
    """Scripts can trust it."""
    assert run("webhook", *arguments) == code


def test_signing_needs_the_master_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is derived from nothing would be everybody's."""
    monkeypatch.delenv("TIDEGATE_SECRETS__MASTER")
    assert run("webhook", "register", "chat", "http://127.0.0.1:9/") == faults.WRONG_USAGE
