"""Watching a campaign: exact at every look, whatever commits late."""

from __future__ import annotations

import random
import threading
import time
from uuid import UUID

from tests.factories import add_campaign, give_coupons, one, open_shop, owner
from workers.contract.ids import uuid7
from workers.domain.intent import Line
from workers.store import observe
from workers.store.observe import ProgressReader
from workers.store.pool import AUDITOR, WORKER, Bounds, Connection, connect


def auditor(dsn: str) -> Connection:
    return connect(dsn, AUDITOR, Bounds(), name="test-observer")


def test_progress_says_what_became_of_a_campaign(dsn, valkey_url):
    """Orders, coupons, refusals, what is open, and what is left of goods and money."""
    add_campaign(dsn, stock={"tea": 5, "bun": 3}, budget=10_000)
    add_campaign(dsn, "other")
    with open_shop(dsn, valkey_url) as shop:
        [coupon] = shop.sell(shop.issuance("u-1"))
        shop.sell(shop.order("u-1", lines=(Line("tea", 1),), coupon_code=shop.code(coupon)))
        shop.sell(shop.order("u-2", campaign_id="other"))
        shop.accept(*[shop.order("u-3", lines=(Line("bun", 2),)) for _ in range(3)])
        shop.work()
        shop.accept(shop.order("u-4"))
    give_coupons(dsn, ["u-9"])
    with auditor(dsn) as connection:
        seen = observe.progress(connection, "spring")
    assert seen.committed == 2
    assert seen.issued == 1
    assert seen.refused == {"sold_out": 2}
    assert seen.in_flight == 1
    assert seen.stock == {"tea": (4, 5), "bun": (1, 3)}
    assert (seen.budget, seen.spent, seen.reserved) == (10_000, 1_800, 2_500)


def test_an_outcome_that_commits_after_later_ones_is_not_missed(dsn, valkey_url):
    """A batch that hangs between deciding and committing is counted when it commits."""
    add_campaign(dsn)
    reader = ProgressReader("spring")
    with open_shop(dsn, valkey_url) as shop, auditor(dsn) as connection, owner(dsn) as slow:
        [late] = shop.accept(shop.order("u-0"))
        slow.execute("BEGIN")
        slow.execute("SELECT FROM open_intents WHERE intent_id = %s FOR UPDATE", (late,))
        slow.execute("INSERT INTO outcomes VALUES (%s, 'sold_out', clock_timestamp())", (late,))
        for n in range(1, 4):
            shop.sell(shop.order(f"u-{n}"))
            assert reader.read(connection).committed == n
            assert reader.read(connection).refused == {}
        slow.execute("DELETE FROM open_intents")
        slow.execute("COMMIT")
        for _ in range(3):
            seen = reader.read(connection)
            assert (seen.committed, seen.refused) == (3, {"sold_out": 1})


def test_only_what_may_still_change_is_counted_again(dsn, valkey_url):
    """Two looks after it was committed, an outcome is settled, and is not read any more."""
    add_campaign(dsn)
    reader = ProgressReader("spring")
    with open_shop(dsn, valkey_url) as shop, auditor(dsn) as connection:
        shop.sell(*shop.orders(5))
        reader.read(connection)
        assert reader.read(connection).committed == 5
        assert sum(reader._settled.values()) == 5
        assert reader._settled_until > one(dsn, "SELECT max(decided_at) FROM outcomes")


def test_every_look_is_exact_while_many_commit_in_any_order(dsn):
    """Eight writers that sleep between deciding and committing: no look counts less than the one
    before, none more than there is, and the last one counts all."""
    add_campaign(dsn)
    ids = [uuid7() for _ in range(800)]
    with owner(dsn) as connection:
        connection.execute(
            "INSERT INTO intents SELECT id, 'order', 'g', id::text, 'u', 'spring', '{}', now() "
            "FROM unnest(%s::uuid[]) AS id",
            (ids,),
        )
    writers = [threading.Thread(target=_decide, args=(dsn, ids[n::8])) for n in range(8)]
    for writer in writers:
        writer.start()
    reader, last = ProgressReader("spring"), 0
    with auditor(dsn) as connection:
        while any(writer.is_alive() for writer in writers):
            before = one(dsn, "SELECT count(*) FROM outcomes")
            seen = reader.read(connection).committed
            assert before <= seen <= one(dsn, "SELECT count(*) FROM outcomes")
            assert seen >= last
            last = seen
        assert reader.read(connection).committed == 800
        assert sum(reader._settled.values()) > 0


def _decide(dsn: str, ids: list[UUID]) -> None:
    order = random.Random(ids[0].int)
    with connect(dsn, WORKER, Bounds(), name="test-writer", autocommit=False) as connection:
        while ids:
            some = [ids.pop(order.randrange(len(ids))) for _ in range(min(5, len(ids)))]
            connection.execute("SELECT pg_current_xact_id()")  # as the claim's row locks take one
            connection.execute(
                "INSERT INTO outcomes SELECT id, NULL, clock_timestamp() "
                "FROM unnest(%s::uuid[]) AS id",
                (some,),
            )
            time.sleep(order.random() * 0.05)
            connection.commit()
