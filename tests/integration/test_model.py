"""The whole store against a model that fits on a page: any story, step by step, with an audit each.

The model knows no SQL, no locks, no batches and no code of ours but the names of things: dictionaries
and the published rules. Hypothesis tells stories; after each step stock, budget, coupons, orders and
outcomes are what the model says, and the audit is clean.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kit import CODES, World, again, issuance, order
from msgspec.structs import replace

from producer.answers import Accepted, Conflict, Posted, Replayed
from tests.factories import COUPON, GATEWAY, PRICE
from workers.contract.ids import uuid7
from workers.store import audit, lifecycle
from workers.store.pool import AUDITOR, WORKER

STOCK = {"tea": 7, "bun": 3}
BUDGET = 3 * COUPON + PRICE  # three coupons, and a fourth when one was spent on a single tea
ORDERS_MAX = 4
COUPONS_MAX = 3
BATCH_MAX = 4

_WORKERS = ("one", "two")
_campaigns = itertools.count(1)
_users = st.sampled_from(["u-1", "u-2"])
_choices = st.integers(0, 9)
_events = st.sampled_from(["pay", "cancel", "fall due", "pay", "pay wrongly"])
_carts = st.dictionaries(
    st.sampled_from(list(STOCK)), st.integers(1, 3), min_size=1, max_size=2
).map(lambda cart: list(cart.items()))


class _Model:
    """What there should be. An order is a dictionary, a coupon too."""

    def __init__(self) -> None:
        self.stock = {sku: Counter(available=count) for sku, count in STOCK.items()}
        self.reserved = self.spent = 0
        self.pending: dict[UUID, dict[str, Any]] = {}  # in order of arrival
        self.reasons: dict[UUID, str | None] = {}
        self.coupons: dict[UUID, dict[str, Any]] = {}
        self.orders: dict[UUID, dict[str, Any]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ended = False  # the coupons' window

    def decide(self, intent_ids: list[UUID]) -> None:
        issued_before = set(self.coupons)
        for intent_id in intent_ids:
            wish = self.pending.pop(intent_id)
            decide = self._order if wish["kind"] == "order" else self._issue
            self.reasons[intent_id] = decide(intent_id, wish, issued_before)

    def _issue(self, intent_id: UUID, wish: dict[str, Any], _: set[UUID]) -> str | None:
        user = wish["user"]
        if wish["after_end"]:
            return "coupon_expired"
        if self.counts[user, "issuance"] >= COUPONS_MAX:
            return "user_limit_reached"
        if BUDGET - self.reserved - self.spent < COUPON:
            return "budget_exhausted"
        self.counts[user, "issuance"] += 1
        self.reserved += COUPON
        self.coupons[intent_id] = {"user": user, "value": COUPON, "status": "issued"}
        return None

    def _order(self, intent_id: UUID, wish: dict[str, Any], issued: set[UUID]) -> str | None:
        user, lines, coupon_id = wish["user"], wish["lines"], wish["coupon"]
        total, discount = sum(n for _, n in lines) * PRICE, 0
        if coupon_id is not None:
            coupon = self.coupons.get(coupon_id) if coupon_id in issued else None
            if coupon is None or coupon["user"] != user:
                return "coupon_unknown"
            if coupon["status"] == "expired" or wish["after_end"]:
                return "coupon_expired"
            if coupon["status"] == "redeemed":
                return "coupon_already_redeemed"
            discount = min(coupon["value"], total)
            if discount == 0:
                return "coupon_not_applicable"
        if self.counts[user, "order"] >= ORDERS_MAX:
            return "user_limit_reached"
        if any(self.stock[sku]["available"] < n for sku, n in lines):
            return "sold_out"
        self.counts[user, "order"] += 1
        made = {"user": user, "lines": lines, "discount": discount, "payable": total - discount}
        self.orders[intent_id] = made | {"coupon": coupon_id, "status": "awaiting_payment"}
        self.orders[intent_id] |= {"payments": {}, "due": False}
        self._move(lines, "available", "reserved")
        if coupon_id is not None:
            self.coupons[coupon_id]["status"] = "redeemed"
        if total == discount:
            self._confirm(self.orders[intent_id])
        return None

    def _move(self, lines: list[tuple[str, int]], source: str, target: str) -> None:
        for sku, count in lines:
            self.stock[sku][source] -= count
            self.stock[sku][target] += count

    def _confirm(self, made: dict[str, Any]) -> None:
        made["status"] = "confirmed"
        self._move(made["lines"], "reserved", "sold")
        if made["coupon"] is not None:
            self.reserved -= self.coupons[made["coupon"]]["value"]
            self.spent += made["discount"]

    def pay(self, order_id: UUID, reference: str, amount: int) -> None:
        made = self.orders[order_id]
        if amount != made["payable"] or amount == 0 or reference in made["payments"]:
            return
        if made["status"] == "awaiting_payment" and made["due"]:
            self.end(order_id, "expired")
        if made["status"] == "awaiting_payment":
            self._confirm(made)
            made["payments"][reference] = "accepted"
        else:
            made["payments"][reference] = "refund_due"

    def end(self, order_id: UUID, status: str) -> None:
        """Cancel or expire."""
        made = self.orders[order_id]
        if made["status"] not in ("awaiting_payment", "confirmed"):
            return
        coupon = None if made["coupon"] is None else self.coupons[made["coupon"]]
        if made["status"] == "confirmed":
            self._move(made["lines"], "sold", "available")
            if coupon is not None:
                free = BUDGET - self.reserved - self.spent
                coupon["value"] = min(coupon["value"], made["discount"] + free)
                self.reserved += coupon["value"]
                self.spent -= made["discount"]
        else:
            self._move(made["lines"], "reserved", "available")
        if coupon is not None:
            coupon["status"] = "issued"
        self.counts[made["user"], "order"] -= 1
        made["status"] = status
        made["payments"] = dict.fromkeys(made["payments"], "refund_due")

    def expire_coupons(self) -> None:
        if self.ended and all(wish["after_end"] for wish in self.pending.values()):
            for coupon in self.coupons.values():
                if coupon["status"] == "issued":
                    coupon["status"] = "expired"
                    self.reserved -= coupon["value"]


class _Story(RuleBasedStateMachine):
    """One campaign of its own on a database that all stories share."""

    world: World  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.model = _Model()
        self.campaign_id = f"story-{next(_campaigns)}"
        self.world.campaign(
            self.campaign_id,
            stock=STOCK,
            budget=BUDGET,
            orders_per_user_max=ORDERS_MAX,
            coupons_per_user_max=COUPONS_MAX,
        )
        self.posted: list[Posted] = []
        self.told_before = len(self.world.told)
        self.intake = self.world.intake()
        self.processors = [self.world.processor(name, batch_max=BATCH_MAX) for name in _WORKERS]
        self.change = self.world.connection(WORKER)
        self.auditor = self.world.connection(AUDITOR)

    @initialize()
    def coupons_were_given(self) -> None:
        """A story begins with coupons in some hands, and some orders on their way."""
        users = ("u-1", "u-2", "u-1")
        for user in users:
            self._post(issuance(user, campaign_id=self.campaign_id, ttl_ms=600_000), None)
        self._decide_all()
        for place, user in enumerate(users):
            self._order(user, [("tea", 1 + place % 2)], place)

    # What users do -------------------------------------------------------------------------------

    @rule(wishes=st.lists(st.tuples(_users, st.none() | _carts, _choices), min_size=1, max_size=4))
    def users_wish(self, wishes: list[tuple[str, Any, int]]) -> None:
        """For a coupon, or to order with or without one: whoever's, whatever became of it."""
        for user, lines, which in wishes:
            if lines is None:
                self._post(issuance(user, campaign_id=self.campaign_id, ttl_ms=600_000), None)
            else:
                self._order(user, lines, which)

    def _order(self, user: str, lines: list[tuple[str, int]], which: int) -> None:
        given = [p.intent_id for p in self.posted if p.kind.value == "issuance"]
        own = [coupon_id for coupon_id in given if self._owner(coupon_id) == user]
        choice: list[UUID | None] = [None, *own, None, *own, *given]  # mostly one's own, or none
        coupon_id = choice[which % len(choice)]
        posted = order(
            user,
            lines=lines,
            campaign_id=self.campaign_id,
            ttl_ms=600_000,
            coupon_code=None if coupon_id is None else CODES.code_of(coupon_id),
        )
        self._post(posted, coupon_id)

    def _owner(self, intent_id: UUID) -> str:
        return next(p.intent.user_id for p in self.posted if p.intent_id == intent_id)

    def _post(self, posted: Posted, coupon_id: UUID | None) -> None:
        (answer,) = self.intake.submit([posted])
        assert isinstance(answer, Accepted)
        self.posted.append(posted)
        intent: Any = posted.intent
        self.model.pending[posted.intent_id] = {
            "kind": posted.kind.value,
            "user": intent.user_id,
            "lines": [(line.sku, line.quantity) for line in getattr(intent, "lines", ())],
            "coupon": coupon_id,
            "after_end": self.model.ended,
        }

    @rule(which=_choices, changed=st.booleans())
    def ask_again(self, which: int, changed: bool) -> None:
        """The same key gets the state of its intent; with another intent, a conflict."""
        first = self.posted[which % len(self.posted)]
        repeated = again(first)
        if changed:
            repeated = replace(repeated, intent=replace(first.intent, conversation_id="other"))
        (answer,) = self.intake.submit([repeated])
        if changed:
            assert answer == Conflict(first.intent_id)
            return
        assert isinstance(answer, Replayed)
        assert answer.resource.intent_id == first.intent_id
        if first.intent_id in self.model.pending:
            assert answer.resource.status == "accepted"
        else:
            assert answer.resource.refusal == self.model.reasons[first.intent_id]

    # What workers hear ---------------------------------------------------------------------------

    @rule(data=st.data(), who=st.integers(0, 1), lost=st.booleans(), all_of_it=st.booleans())
    def a_hint_comes(self, data: st.DataObject, who: int, lost: bool, all_of_it: bool) -> None:
        """Empty, doubled, reordered, stale, for nobody; to a worker whose connections were lost."""
        if all_of_it:
            return self._decide_all()
        if lost:
            # Until they are gone: an ending backend holds its rows, and who skips those begins with
            # younger ones, which is allowed, and not in the model.
            self.world.value(
                "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE"
                " datname = current_database() AND application_name = %s",
                f"tidegate-{_WORKERS[who]}",
            )
        known = [posted.intent_id for posted in self.posted[-8:]]
        hint = data.draw(st.lists(st.sampled_from([*known, uuid7()]), max_size=BATCH_MAX))
        hinted = [i for i in self.model.pending if i in hint]
        others = [i for i in self.model.pending if i not in hint]
        claimed = sorted(hinted + others[: BATCH_MAX - len(hinted)])
        report = self.processors[who].run(hint)
        assert report.claimed == len(claimed)
        self.model.decide(claimed)

    def _decide_all(self) -> None:
        self.processors[0].run([], until=float("inf"))
        waiting = list(self.model.pending)
        for start in range(0, len(waiting), BATCH_MAX):
            self.model.decide(waiting[start : start + BATCH_MAX])

    # What happens to orders ----------------------------------------------------------------------

    @precondition(lambda self: self.model.orders)
    @rule(
        which=_choices,
        events=st.lists(st.tuples(_events, st.sampled_from("ab")), min_size=1, max_size=4),
    )
    def an_order_lives_on(self, which: int, events: list[tuple[str, str]]) -> None:
        order_ids = list(self.model.orders)[::-1]
        for event, reference in events:
            self._live_on(order_ids[which % len(order_ids)], event, reference)

    def _live_on(self, order_id: UUID, event: str, reference: str) -> None:
        if event.startswith("pay"):
            amount = self.model.orders[order_id]["payable"] + (event == "pay wrongly")
            lifecycle.pay(self.change, order_id, GATEWAY, reference, amount)
            self.model.pay(order_id, reference, amount)
        elif event == "cancel":
            lifecycle.cancel(self.change, order_id, GATEWAY)
            self.model.end(order_id, "cancelled")
        else:
            self.world.admin.execute(
                "UPDATE orders SET payment_deadline = now() WHERE order_id = %s"
                " AND status = 'awaiting_payment'",
                (order_id,),
            )
            self.model.orders[order_id]["due"] = True

    @rule(window_ends=st.integers(0, 5))
    def time_passes(self, window_ends: int) -> None:
        """Orders that are due expire; once in a story the coupons' window ends; coupons expire."""
        lifecycle.expire_due(self.change, 100)
        for order_id, made in self.model.orders.items():
            if made["due"] and made["status"] == "awaiting_payment":
                self.model.end(order_id, "expired")
        if window_ends == 5 and not self.model.ended:
            self.world.admin.execute(
                "UPDATE campaigns SET coupons_valid_until = clock_timestamp()"
                " WHERE campaign_id = %s",
                (self.campaign_id,),
            )
            self.model.ended = True
        lifecycle.expire_coupons(self.change, UUID(int=0), 1_000)
        self.model.expire_coupons()

    # What must be true ---------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        model, rows, mine = self.model, self.world.rows, self.campaign_id
        stock = rows(
            "SELECT sku, available, reserved, sold FROM stock WHERE campaign_id = %s", mine
        )
        assert {sku: counts for sku, *counts in stock} == {
            sku: [units["available"], units["reserved"], units["sold"]]
            for sku, units in model.stock.items()
        }
        budget = rows("SELECT reserved, spent FROM budgets WHERE campaign_id = %s", mine)
        assert budget == [(model.reserved, model.spent)]
        coupons = rows(
            "SELECT coupon_id, user_id, value, status FROM audit.coupons WHERE campaign_id = %s",
            mine,
        )
        assert {coupon_id: tuple(row) for coupon_id, *row in coupons} == {
            coupon_id: (coupon["user"], coupon["value"], coupon["status"])
            for coupon_id, coupon in model.coupons.items()
        }
        orders = rows(
            "SELECT o.order_id, o.status, o.discount, o.payable, (SELECT json_object_agg("
            "reference, p.status) FROM payments p WHERE p.order_id = o.order_id)::text"
            " FROM orders o WHERE campaign_id = %s",
            mine,
        )
        assert {order_id: (s, d, p, eval(paid or "{}")) for order_id, s, d, p, paid in orders} == {
            order_id: (made["status"], made["discount"], made["payable"], made["payments"])
            for order_id, made in model.orders.items()
        }

    @invariant()
    def everything_was_told_once(self) -> None:
        outcomes = self.world.rows(
            "SELECT intent_id, reason FROM audit.intents WHERE campaign_id = %s AND decided_at"
            " IS NOT NULL",
            self.campaign_id,
        )
        assert dict(outcomes) == self.model.reasons
        told = self.world.told[self.told_before :]
        assert Counter((one.intent_id, one.refusal) for one in told) == dict.fromkeys(
            self.model.reasons.items(), 1
        )

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.auditor.transaction():  # on one connection: its plans are made once
            report = audit.check_all(self.auditor, drained=not self.model.pending)
        assert [check for check in report.checks if check.violations] == []

    def teardown(self) -> None:
        """Decide what is open: the next story shares the table of open intents."""
        self.processors[0].run([], until=float("inf"))
        for processor in self.processors:
            processor._store.close()  # type: ignore[attr-defined]
        self.change.close()
        self.auditor.close()
        self.intake.close()
        self.world.assert_clean()


@pytest.mark.slow
def test_no_story_leads_where_the_model_does_not(world: World) -> None:
    """Issue, order, pay, cancel, expire, ask again, with hints lost, doubled and reordered."""
    _Story.world = world
    run_state_machine_as_test(
        _Story,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            phases=[Phase.generate],  # shrinking would take minutes of database; stories are short
            print_blob=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
