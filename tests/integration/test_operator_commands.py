"""`tidegate campaign` and `tidegate gateway`, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_campaigns import FILE

from deploy.cli import faults, main
from tests.factories import MASTER, one
from workers.contract.couponcode import CouponCodes
from workers.contract.signing import signing_key

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def aimed(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Aim commands at this test's database, by the environment."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", dsn)
    monkeypatch.setenv("TIDEGATE_SECRETS__MASTER", MASTER)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spring.toml").write_text(FILE)


def run(*arguments: str) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


def told(capsys: Captured, *arguments: str) -> Any:
    """Run a command that must succeed; return what it printed as JSON."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_campaign_is_applied_listed_and_shown(capsys: Captured) -> None:
    """Dry first, then for good; then there is nothing to change."""
    dry = told(capsys, "campaign", "apply", "spring.toml", "--dry-run")
    assert (dry["dry_run"], dry["created"], dry["users"], dry["coupons"]) == (True, True, 0, 0)
    assert told(capsys, "campaign", "list") == []
    assert told(capsys, "campaign", "apply", "spring.toml", "--reason", "now")["created"]
    assert told(capsys, "campaign", "apply", "spring.toml")["changes"] == []
    assert [c["campaign_id"] for c in told(capsys, "campaign", "list")] == ["spring"]
    shown = told(capsys, "campaign", "show", "spring")
    assert shown["terms"]["coupon"]["amount"] == 2500
    assert [item["sku"] for item in shown["items"]] == ["bun", "tea"]
    assert [act["reason"] for act in shown["actions"]] == ["now"]


def test_the_same_is_told_to_people(capsys: Captured) -> None:
    """Every command prints text that names what it was about."""
    for arguments, words in (
        (("campaign", "list"), ["no campaign"]),
        (("campaign", "apply", "spring.toml"), ["spring: 5 things changed", "item tea: new"]),
        (("campaign", "apply", "spring.toml", "--dry-run"), ["nothing to change", "0 users"]),
        (("campaign", "list"), ["spring", "open", "0 sold"]),
        (("campaign", "show", "spring"), ["tea-house", "budget", "valid until", "campaign apply"]),
        (("campaign", "issue", "spring", "--count", "3", "--out", "c"), ["3 coupons issued; c"]),
        (("gateway", "list"), ["no gateway"]),
        (("gateway", "create", "chat"), ["tg_", "not shown again"]),
        (("gateway", "rotate", "chat"), ["tg_", "signing key"]),
        (("gateway", "quota", "chat", "--rate", "2", "--burst", "4"), ["2/s, burst 4"]),
        (("gateway", "list"), ["chat", "2/s", "revoked from"]),
        (("gateway", "quota", "chat", "--none"), ["no quota"]),
        (("gateway", "revoke", "chat"), ["revoked: gateway chat"]),
    ):
        assert run(*arguments) == 0, arguments
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == [], printed


def test_a_campaign_that_we_ship_is_applied_by_its_name(capsys: Captured) -> None:
    """Smaller, and from now."""
    given = ("campaign", "apply", "qwen-spring-2026", "--from-now", "--scale", "0.001")
    assert told(capsys, *given)["created"]
    assert [c["state"] for c in told(capsys, "campaign", "list")] == ["open"]


def test_a_faulty_file_is_not_fine_and_every_fault_is_printed(
    capsys: Captured, tmp_path: Path
) -> None:
    """Exit 1; nothing is changed."""
    (tmp_path / "bad.toml").write_text(FILE.replace("budget", "budjet").replace('"CNY"', '"yuan"'))
    assert run("campaign", "apply", "bad.toml") == faults.NOT_FINE
    printed = capsys.readouterr().err
    assert "did you mean `budget`?" in printed
    assert "campaign.currency" in printed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("campaign", "apply", "nowhere.toml"), faults.WRONG_USAGE),
        (("campaign", "show", "nothing"), faults.NOT_FINE),
        (("campaign", "issue", "nothing", "--count", "1", "--out", "x"), faults.NOT_FINE),
        (("campaign", "issue", "spring", "--out", "x"), faults.WRONG_USAGE),
        (
            ("campaign", "issue", "s", "--count", "2", "--out", "x", "--user-format", "u"),
            faults.WRONG_USAGE,
        ),
        (("gateway", "revoke", "nobody"), faults.NOT_FINE),
        (("gateway", "quota", "chat"), faults.WRONG_USAGE),
        (("gateway", "quota", "chat", "--rate", "1"), faults.WRONG_USAGE),
        (("gateway", "create", "chat", "--scope", "everything"), faults.WRONG_USAGE),
    ],
)
def test_what_cannot_be_done_has_its_exit_code(arguments: tuple[str, ...], code: int) -> None:
    """Scripts can trust it."""
    assert run(*arguments) == code


def test_coupons_are_issued_to_a_file_and_a_second_run_is_refused(
    capsys: Captured, dsn: str, tmp_path: Path
) -> None:
    """NDJSON of users and codes; `--resume` completes, and is idempotent."""
    run("campaign", "apply", "spring.toml")
    given = ("campaign", "issue", "spring", "--count", "20", "--first-user", "5", "--out", "c.nd")
    assert told(capsys, *given)["issued"] == 20
    lines = [json.loads(line) for line in (tmp_path / "c.nd").read_text().splitlines()]
    assert [line["user_id"] for line in lines] == [f"u-{n}" for n in range(5, 25)]
    codes = CouponCodes(MASTER)
    assert all(codes.coupon_id_of(line["coupon_code"]) for line in lines)
    assert run(*given) == faults.NOT_FINE
    assert told(capsys, *given, "--resume")["issued"] == 0
    assert one(dsn, "SELECT count(*) FROM coupons") == 20


def test_coupons_need_the_master_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes made without it would be worth nothing."""
    run("campaign", "apply", "spring.toml")
    monkeypatch.delenv("TIDEGATE_SECRETS__MASTER")
    arguments = ("campaign", "issue", "spring", "--count", "1", "--out", "x")
    assert run(*arguments) == faults.WRONG_USAGE


def test_a_gateway_is_shown_its_key_and_what_it_signs_with(capsys: Captured) -> None:
    """Once; the signing key is the one the intake of the broker derives."""
    made = told(capsys, "gateway", "create", "chat", "--scope", "intents:write")
    assert made["signing_key"] == signing_key(MASTER, made["key_id"])
    listed = told(capsys, "gateway", "list")
    assert [gateway["scopes"] for gateway in listed] == [["intents:write"]]
    assert made["key"] not in json.dumps(listed)
    revoked = told(capsys, "gateway", "revoke", "chat", "--key", made["key_id"])
    assert revoked["keys_revoked"] == 1
