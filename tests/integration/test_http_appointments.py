"""A place in time over HTTP: who is refused by load gets one, and is served there, once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import httpx
import pytest
import redis
from http_kit import ISSUANCE, ORDER, Served, add_gateway, serve, settings_for
from kit import comes_true

from tests.factories import GATEWAY, MASTER, add_campaign, one, open_gate, owner
from workers.contract.calendar import Calendar
from workers.contract.gate import open_client
from workers.contract.ticket import Tickets
from workers.domain.appointment import Block, Window
from workers.domain.overload import Level, Policy
from workers.service.appointments import keep_calendars
from workers.store import calendars
from workers.store.pool import WORKER, Bounds, Connection, connect

LEAD_MS = 60_000  # nobody is in its window who was not put there, however slow the machine
WIDTH_MS = 5_000
RATE = 0.02  # admitted a second: the first of a class and gateway is, the next in a minute
GATEWAYS = (GATEWAY, "other", "limited")
TICKETS = Tickets(MASTER)

Place = dict[str, str]


class _Store:
    """The store's functions on one connection, as the governor has them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def read(self) -> Mapping[str, int | None]:
        return calendars.read(self.connection)

    def extend(self, blocks: Mapping[str, Block]) -> set[str]:
        return calendars.extend(self.connection, blocks)


class Shop:
    """An API that an operator has ordered to shed, with what the governor does for it.

    Its gateways are `chat`, `other`, and `limited`, which has a limit of its own. A plain order of
    each was admitted: further ones are shed.
    """

    def __init__(self, dsn: str, valkey_url: str, served: Served) -> None:
        self.dsn = dsn
        self.valkey_url = valkey_url
        self.valkey = redis.Redis.from_url(valkey_url)
        self.clients = {gateway: served.client(gateway) for gateway in GATEWAYS}

    def govern(self, lead_ms: int = LEAD_MS) -> None:
        """Publish the rate, let windows be handed out, and see that the API knows of it."""
        gate = open_gate(self.valkey_url)
        epoch = gate.take_lead("test", 600_000)
        assert epoch is not None
        policy = Policy(admitted_per_s=RATE, predicted_wait_ms=lead_ms)
        assert gate.publish(policy, epoch=epoch, lease_ms=600_000)
        calendar = Calendar(open_client(self.valkey_url, timeout_ms=2_000), "tidegate:")
        with connect(self.dsn, WORKER, Bounds(), name="test-governor") as connection:
            keep_calendars(_Store(connection), calendar, lead_ms=lead_ms)
        assert comes_true(lambda: self.status()["estimated_wait_ms"] == lead_ms)

    def order_level(self, level: Level) -> None:
        """Order a level, and see that the API knows of it."""
        with owner(self.dsn) as connection:
            connection.execute(
                "INSERT INTO level_orders (level, reason) VALUES (%s, 'test')"
                " ON CONFLICT (only_one) DO UPDATE SET level = excluded.level",
                (level.value,),
            )
        assert comes_true(lambda: self.status()["level"] == level.value)

    def status(self) -> dict[str, object]:
        """What the API says of itself."""
        return dict(self.clients[GATEWAY].get("/v1/status").json())

    def post(
        self, user: str = "u-1", key: str = "k-1", ticket: str = "", gateway: str = GATEWAY
    ) -> httpx.Response:
        """Post a user's order, with a ticket if one is given."""
        shown = {"tidegate-appointment": ticket} if ticket else {}
        return self.clients[gateway].post(
            "/v1/intents",
            json={**ORDER, "user_id": user},
            headers={"idempotency-key": key, **shown},
        )

    def place(self, user: str = "u-1") -> Place:
        """The place that a user's order is given when load refuses it."""
        return place_of(self.post(user))

    def begun(self, ticket: str, ago_ms: int = 0, user: str = "u-1") -> str:
        """Let time pass for one window until it began so long ago; return the ticket it has then."""
        window = TICKETS.read(ticket, GATEWAY, user, "spring")
        assert window is not None
        now_ms = self.now_ms()
        then = Window(now_ms - ago_ms, now_ms - ago_ms + window.width_ms)
        for key in self.valkey.scan_iter("*:appointment:*"):
            text = bytes(self.valkey.get(key) or b"")
            if text.startswith(b"%013d" % window.starts_ms):
                moved = b"%013d" % then.starts_ms + text[13:]
                self.valkey.set(key, moved, px=max(1, then.grace_ends_ms - now_ms))
        return TICKETS.sign(GATEWAY, user, "spring", then)

    def now_ms(self) -> int:
        """The gate's time."""
        seconds, microseconds = self.valkey.time()
        return int(seconds) * 1_000 + int(microseconds) // 1_000


def place_of(refused: httpx.Response) -> Place:
    """The place that a refusal tells of."""
    assert refused.status_code == 503, refused.text
    place: Place = refused.json()["appointment"]
    assert set(place) == {"ticket", "not_before", "not_after"}
    return place


def begins(place: Place) -> datetime:
    return datetime.fromisoformat(place["not_before"])


@pytest.fixture
def shop(dsn: str, valkey_url: str) -> Iterator[Shop]:
    """An overloaded shop."""
    add_campaign(dsn)
    for gateway in GATEWAYS:
        add_gateway(dsn, gateway)
    with owner(dsn) as connection:
        connection.execute(
            "UPDATE gateways SET rate = 0.001, burst = 1 WHERE gateway_id = 'limited'"
        )
    with serve(settings_for(dsn, valkey_url)) as served:
        shop = Shop(dsn, valkey_url, served)
        shop.govern()
        shop.order_level(Level.SHEDDING)
        for gateway in GATEWAYS:
            assert shop.post("the-first", gateway=gateway).status_code == 202
        yield shop
        shop.valkey.close()


# Given -------------------------------------------------------------------------------------------


def test_a_refused_order_is_told_its_place_and_when_to_come(shop: Shop) -> None:
    """Never before the window, and spread over its first half."""
    refused = shop.post()
    problem, place = refused.json(), place_of(refused)
    told = [problem[name] for name in ("code", "level", "limit", "accepted")]
    assert told == ["reduced_capacity", "shedding", "level", "no"]
    assert LEAD_MS <= problem["retry_after_ms"] <= LEAD_MS + WIDTH_MS // 2
    assert LEAD_MS <= 1_000 * int(refused.headers["retry-after"]) <= LEAD_MS + WIDTH_MS // 2
    width = datetime.fromisoformat(place["not_after"]) - begins(place)
    assert width == timedelta(milliseconds=WIDTH_MS)
    assert place["not_before"].endswith("Z")


def test_asking_again_or_coming_too_early_is_told_the_same_place(shop: Shop) -> None:
    """With the same key or another, with the ticket or without: a place is its owner's."""
    place = shop.place()
    for key, ticket in (("k-1", ""), ("k-2", ""), ("k-2", place["ticket"])):
        assert place_of(shop.post(key=key, ticket=ticket)) == place
    assert begins(shop.place("u-2")) > begins(place)


def test_only_an_order_that_load_refused_earns_a_place(shop: Shop) -> None:
    """A 429 is the caller's own doing, and who wishes for a coupon can wait."""
    limited = shop.post(gateway="limited")
    assert (limited.status_code, limited.json()["limit"]) == (429, "gateway")
    headers = {"idempotency-key": "c-1"}
    paused = shop.clients[GATEWAY].post("/v1/coupons", json=ISSUANCE, headers=headers)
    assert (paused.status_code, paused.json()["code"]) == (503, "issuance_paused")
    assert all("appointment" not in refused.json() for refused in (limited, paused))


# Kept --------------------------------------------------------------------------------------------


def test_who_comes_when_told_is_served(shop: Shop) -> None:
    """The whole way by the real clock: refused, waited, served."""
    shop.govern(lead_ms=1_200)
    place = shop.place()
    while shop.now_ms() < begins(place).timestamp() * 1_000:
        time.sleep(0.02)
    assert shop.post(ticket=place["ticket"]).status_code == 202


def test_in_its_window_an_order_is_served_while_plain_ones_are_shed(shop: Shop) -> None:
    """Once: its key finds it again; another key is as any other, and earns another place."""
    place = shop.place()
    ticket = shop.begun(place["ticket"])
    assert shop.post("u-2").status_code == 503
    served = shop.post(key="mine", ticket=ticket)
    assert served.status_code == 202
    again = shop.post(key="mine", ticket=ticket)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["intent_id"] == served.json()["intent_id"]
    shop.govern()
    assert begins(place_of(shop.post(key="another", ticket=ticket))) > begins(place)


def test_a_ticket_is_worth_nothing_to_anybody_else(shop: Shop) -> None:
    """Nor is one that we have not signed; its owner has it still."""
    ticket = shop.begun(shop.place()["ticket"])
    forged = ticket[:-1] + ("A" if ticket[-1] != "A" else "B")
    for user, gateway, shown in (
        ("u-2", GATEWAY, ticket),
        ("u-1", "other", ticket),
        ("u-1", GATEWAY, forged),
        ("u-1", GATEWAY, "no-ticket"),
    ):
        assert shop.post(user, "another", shown, gateway).status_code == 503
    assert shop.post(ticket=ticket).status_code == 202


def test_who_is_late_within_the_grace_is_served_and_later_is_a_newcomer(shop: Shop) -> None:
    """A newcomer earns a new place, behind all others."""
    late, later = shop.place(), shop.place("u-2")
    shop.govern()
    ticket = shop.begun(later["ticket"], 2 * WIDTH_MS, "u-2")
    assert begins(place_of(shop.post("u-2", ticket=ticket))) > begins(later)
    ticket = shop.begun(late["ticket"], WIDTH_MS)
    assert shop.post(ticket=ticket).status_code == 202


def test_who_came_in_time_and_was_turned_away_has_a_new_place(shop: Shop) -> None:
    """More were promised a place than the rate, which has fallen, can serve now."""
    places = {user: shop.place(user) for user in ("u-1", "u-2")}
    shop.govern()
    replies = {
        user: shop.post(user, ticket=shop.begun(place["ticket"], user=user))
        for user, place in places.items()
    }
    assert replies["u-1"].status_code == 202
    new = place_of(replies["u-2"])
    assert begins(new) > begins(places["u-2"])
    assert shop.post("u-2", ticket=shop.begun(new["ticket"], user="u-2")).status_code == 503


def test_while_all_is_closed_nobody_earns_a_place_and_none_is_lost(shop: Shop) -> None:
    """Nobody knows for how long; who came in its window may come again, with any key."""
    ticket = shop.begun(shop.place()["ticket"])
    shop.order_level(Level.CLOSED)
    ticket = shop.begun(ticket)
    for shown in ("", ticket):
        refused = shop.post(ticket=shown)
        assert (refused.status_code, refused.json()["level"]) == (503, "closed")
        assert "appointment" not in refused.json()
    shop.order_level(Level.SHEDDING)
    assert shop.post(key="another", ticket=shop.begun(ticket)).status_code == 202


# Lost memory -------------------------------------------------------------------------------------


def test_a_flush_breaks_no_promise_and_gives_no_slot_twice(shop: Shop) -> None:
    """A ticket needs no record; new places begin where PostgreSQL says that none was given."""
    place = shop.place()
    handed_out_until = one(
        shop.dsn, "SELECT handed_out_until FROM calendars WHERE gateway_id = %s", GATEWAY
    )
    shop.valkey.flushall()
    shop.govern()
    assert shop.post("the-first-again").status_code == 202
    assert comes_true(lambda: "appointment" in shop.post("u-2").json())
    assert begins(place) < handed_out_until <= begins(shop.place("u-2"))
    assert shop.post(ticket=shop.begun(place["ticket"])).status_code == 202
