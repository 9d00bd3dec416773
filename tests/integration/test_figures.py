"""What the tables say of themselves: tallies that batches write as they commit."""

from __future__ import annotations

from collections import Counter

from kit import CAMPAIGN, CODES, World, again, ids_of, order

from deploy.campaigns.issuing import issue
from workers.store import audit, figures
from workers.store.figures import Figures, Tally


def read(world: World, *campaigns: str) -> Figures:
    return figures.read(world.admin, campaigns, 20, 50)


def told_by_the_audit(world: World) -> Counter[tuple[str, str]]:
    """Intents by kind and end, counted one by one."""
    rows = world.rows(
        "SELECT kind, coalesce(reason, status), count(*) FROM audit.intents GROUP BY 1, 2"
    )
    return Counter({(kind, end): count for kind, end, count in rows})


def told_by_the_tallies(world: World) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for tally in read(world).tallies:
        if tally.intents:
            found[tally.kind, tally.reason or "committed"] += tally.intents
    return found


def test_tallies_are_what_the_audit_counts(world: World) -> None:
    """Committed, refused by reason, of both kinds, over several batches and connections."""
    codes = world.issue(["u-1", "u-2"])
    batch = [
        order("u-1", coupon_code=codes[0]),
        order("u-2", coupon_code=codes[0]),  # another user's
        *[order(f"u-{n}") for n in range(3, 9)],
        order("u-9", campaign_id="nowhere"),
        order("u-9", campaign_id="nowhere-else"),
    ]
    world.intake().submit(batch)
    world.processor("one", batch_max=3).run(ids_of(batch)[:3])
    world.processor("two").run([])
    assert told_by_the_tallies(world) == told_by_the_audit(world)
    assert world.open_count() == 0
    world.assert_clean()


def test_what_is_accepted_is_counted_while_it_is_open(world: World) -> None:
    """Journalled is accepted, decided or not."""
    batch = [order(f"u-{n}") for n in range(5)]
    world.intake().submit(batch)
    found = read(world)
    assert (found.accepted, found.open_count) == (5, 5)
    assert found.oldest_age_s > 0
    world.processor().run(ids_of(batch))
    found = read(world)
    assert (found.accepted, found.open_count, found.oldest_age_s) == (5, 0, 0)


def test_an_unknown_campaign_makes_no_row_of_its_own(world: World) -> None:
    """Whoever invents names of campaigns cannot fill the table, nor Prometheus."""
    batch = [order(f"u-{n}", campaign_id=f"invented-{n}") for n in range(4)]
    world.intake().submit(batch)
    world.processor().run(ids_of(batch))
    found = [tally for tally in read(world).tallies if tally.intents]
    assert found == [Tally("", "order", "campaign_not_active", 4, 0)]


def test_coupons_are_counted_as_issued_and_as_redeemed(world: World) -> None:
    """By intent, in bulk and used; a replay is none."""
    (code,) = world.issue(["u-1"])
    assert len(list(issue(world.dsn, CAMPAIGN, 30, 100, codes=CODES))) == 30
    bought = order("u-1", coupon_code=code)
    world.intake().submit([bought, again(bought)])
    world.processor().run(ids_of([bought]))
    coupons: Counter[str] = Counter()
    for tally in read(world).tallies:
        coupons[tally.kind] += tally.coupons
    assert coupons == {"issuance": 1, "bulk": 30, "order": 1}


def test_only_listed_campaigns_are_shown_by_name(world: World) -> None:
    """And of items no more than asked for."""
    world.campaign("second")
    assert {one.campaign_id for one in read(world).campaigns} == {CAMPAIGN, "second"}
    found = figures.read(world.admin, ["second"], 20, 1)
    assert [one.campaign_id for one in found.campaigns] == ["second"]
    assert len(found.stock) == 1


def test_a_campaign_without_coupons_is_shown_without_a_budget(world: World) -> None:
    """Its stock is what there is to see of it."""
    world.campaign("goods-only", coupon=None)
    found = read(world)
    budgets = {one.campaign_id: one.budget for one in found.campaigns}
    assert budgets["goods-only"] is None
    assert budgets[CAMPAIGN] is not None
    assert {one.campaign_id for one in found.stock} == {CAMPAIGN, "goods-only"}


def test_drift_is_seen(world: World) -> None:
    """A balance that moved without a ledger entry."""
    assert set(figures.read_drift(world.admin).values()) == {0}
    world.admin.execute(
        "UPDATE tidegate.stock SET available = available - 1, sold = sold + 1 "
        "WHERE (campaign_id, sku) IN (SELECT campaign_id, sku FROM tidegate.stock LIMIT 1)"
    )
    drift = figures.read_drift(world.admin)
    assert drift["ledger_equals_balances"] > 0
    assert drift["stock_adds_up"] == 0
    assert set(drift) <= set(audit.rules())
