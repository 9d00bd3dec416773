"""The whole store against a model that fits on a few pages: any story, step by step, audited.

Hypothesis tells stories on the real PostgreSQL, with a broker that loses, doubles, reorders and
delays, workers that die or lose their connection before a commit or after it, API processes that die
around theirs, and a redispatcher. After each step stock, budget, coupons, orders, outcomes and what
was told are what the model says, and the audit is clean.

The same choices make the same story: what is drawn depends on nothing, what is done on the model
alone, and each story has a database of its own. A failure that is told again elsewhere is reported by
hypothesis as inconsistent data, and nobody learns what it was.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from kit import CODES, again, issuance, order
from msgspec.structs import replace
from shop_model import BATCH_MAX, BUDGET, COUPONS_MAX, ORDERS_MAX, STOCK, Model
from story_kit import HINTS_MAX, PATIENT, Work, open_intake, open_redispatch, own_world

from config import failpoints
from producer.answers import Accepted, Conflict, Posted, Replayed
from tests.factories import GATEWAY
from workers.contract.ids import uuid7
from workers.service.redispatch import TickReport
from workers.store import audit, lifecycle
from workers.store.pool import AUDITOR, WORKER

_NAMES = ("one", "two")
_users = st.sampled_from(["u-1", "u-2"])
_workers = st.integers(0, 1)
_choices = st.integers(0, 9)
_events = st.sampled_from(["pay", "cancel", "fall due", "pay", "pay wrongly"])
_carts = st.lists(
    st.tuples(st.sampled_from(sorted(STOCK)), st.integers(1, 3)), min_size=1, max_size=2
)
_fates = st.sampled_from(
    ["", "killed before", "killed before", "killed after", "cut before", "cut after"]
)  # mostly not well: who died with its worker is tried apart later


class _Story(RuleBasedStateMachine):
    """One campaign on a database of its own."""

    dsn: str  # of a database to be copied; set by the test
    valkey_url: str

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.posted: list[Posted] = []
        self.unheard: list[tuple[Posted, UUID | None, bool]] = []  # and whether it was journalled
        self.broker: list[list[UUID]] = []
        with ExitStack() as opened:
            self.world = opened.enter_context(own_world(self.dsn, self.valkey_url))
            self._begin(opened)
            self.opened = opened.pop_all()

    def _begin(self, opened: ExitStack) -> None:
        self.world.campaign(
            stock=STOCK,
            budget=BUDGET,
            orders_per_user_max=ORDERS_MAX,
            coupons_per_user_max=COUPONS_MAX,
        )
        self.intake = open_intake(self.world, lambda ids: self.broker.append(list(ids)))
        opened.callback(self.intake.close)
        self.workers = [Work(self.world, name, BATCH_MAX) for name in _NAMES]
        for worker in self.workers:
            opened.callback(worker.close)
        self.store, self.redispatch = open_redispatch(self.world, self.broker, BATCH_MAX)
        opened.callback(self.store.connection.close)
        self.change = self.world.connection(WORKER, PATIENT)
        self.auditor = self.world.connection(AUDITOR, PATIENT)

    @initialize()
    def coupons_were_given(self) -> None:
        """A story begins with coupons in some hands, and some orders on their way."""
        users = ("u-1", "u-2", "u-1")
        for user in users:
            self._post(issuance(user, ttl_ms=600_000), None)
        self._decide_all()
        for place, user in enumerate(users):
            self._order(user, [("tea", 1 + place % 2)], place)

    # What users do -------------------------------------------------------------------------------

    @rule(wishes=st.lists(st.tuples(_users, st.none() | _carts, _choices), min_size=1, max_size=4))
    def users_wish(self, wishes: list[tuple[str, Any, int]]) -> None:
        """For a coupon, or to order with or without one: whoever's, whatever became of it."""
        for user, lines, which in wishes:
            self._wish(user, lines, which, "")

    @rule(user=_users, lines=st.none() | _carts, which=_choices, committed=st.booleans())
    def an_api_process_dies(self, user: str, lines: Any, which: int, committed: bool) -> None:
        """Before the journal's commit, or after it and before anybody heard of it."""
        self._wish(user, lines, which, "after" if committed else "before")

    def _wish(self, user: str, lines: Any, which: int, death: str) -> None:
        if lines is None:
            return self._post(issuance(user, ttl_ms=600_000), None, death)
        return self._order(user, list(dict(lines).items()), which, death)

    def _order(self, user: str, lines: list[tuple[str, int]], which: int, death: str = "") -> None:
        given = [p.intent_id for p in self.posted if p.kind.value == "issuance"]
        own = [coupon_id for coupon_id in given if self._owner(coupon_id) == user]
        choice: list[UUID | None] = [None, *own, None, *own, *given]  # mostly one's own, or none
        coupon_id = choice[which % len(choice)]
        posted = order(
            user,
            lines=lines,
            ttl_ms=600_000,
            coupon_code=None if coupon_id is None else CODES.code_of(coupon_id),
        )
        self._post(posted, coupon_id, death)

    def _owner(self, intent_id: UUID) -> str:
        return next(p.intent.user_id for p in self.posted if p.intent_id == intent_id)

    def _post(self, posted: Posted, coupon_id: UUID | None, death: str = "") -> None:
        if not death:
            (answer,) = self.intake.submit([posted])
            assert isinstance(answer, Accepted)
            assert self.broker[-1] == [posted.intent_id]
            return self._journalled(posted, coupon_id)
        failpoints.configure(f"journal.{death}_commit=raise*1", enabled=True)
        try:
            with pytest.raises(failpoints.FailpointError):
                self.intake.submit([posted])
        finally:
            failpoints.configure("", enabled=False)
        self.unheard.append((posted, coupon_id, death == "after"))
        if death == "after":
            self._journalled(posted, coupon_id)

    def _journalled(self, posted: Posted, coupon_id: UUID | None) -> None:
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
        self._is_told(first, answer)

    def _is_told(self, first: Posted, answer: Any) -> None:
        assert isinstance(answer, Replayed)
        assert answer.resource.intent_id == first.intent_id
        if first.intent_id in self.model.pending:
            assert answer.resource.status == "accepted"
        else:
            assert answer.resource.refusal == self.model.reasons[first.intent_id]

    @rule()
    def whoever_heard_nothing_asks_again(self) -> None:
        """What was journalled is found; what was not is accepted now, once."""
        unheard, self.unheard = self.unheard, []
        for first, coupon_id, journalled in unheard:
            repeated = again(first)
            (answer,) = self.intake.submit([repeated])
            if journalled:
                self._is_told(first, answer)
            else:
                assert isinstance(answer, Accepted)
                self._journalled(repeated, coupon_id)

    # What workers hear ---------------------------------------------------------------------------

    @rule(which=_choices, doubled=st.booleans())
    def the_broker_errs(self, which: int, doubled: bool) -> None:
        """It loses a message, or holds it twice; which comes next is drawn where one comes."""
        if self.broker:
            message = self.broker.pop(which % len(self.broker))
            self.broker += [message, message] * doubled

    @rule(
        messages=st.lists(
            st.tuples(_choices, _workers, _fates, st.booleans()), min_size=1, max_size=6
        )
    )
    def messages_come(self, messages: list[tuple[int, int, str, bool]]) -> None:
        """Any of those that wait, or one for nobody; its worker may die, or be cut off."""
        for which, who, fate, looks_back in messages:
            hint = self.broker.pop(which % len(self.broker)) if self.broker else [uuid7()]
            if which == 9:
                self.broker.append(hint)  # it comes again: its acknowledgement is lost
            self._work(who, hint, looks_back=looks_back, fate=fate)

    def _work(self, who: int, hint: list[UUID], *, looks_back: bool, fate: str = "") -> None:
        count = self.model.run(who, hint[:BATCH_MAX], looks_back=looks_back, fate=fate)
        assert self.workers[who].run(hint, looks_back=looks_back, fate=fate) == count

    @rule(who=_workers)
    def a_worker_loses_its_connections(self, who: int) -> None:
        """While it is idle; until the server's side is gone, whose locks others would skip."""
        self.world.value(
            "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE"
            " datname = current_database() AND application_name = %s",
            f"tidegate-{_NAMES[who]}",
        )
        self.model.cut_off(who)

    @rule(overdue=st.booleans(), emptied=st.booleans())
    def the_redispatcher_looks(self, overdue: bool, emptied: bool) -> None:
        """What is overdue is named again; an empty queue gets hints that name nobody."""
        if emptied:
            self.broker.clear()
        open_ids, waiting = sorted(self.model.pending), len(self.broker)
        if overdue:
            self.world.admin.execute("UPDATE open_intents SET dispatch_after = now()")
        room = max(0, HINTS_MAX - waiting)
        self.redispatch.hint(TickReport())
        sent = self.broker[waiting:]
        if overdue and room and open_ids:
            named = open_ids[: room * BATCH_MAX]
            assert [one for hint in sent for one in hint] == named
        elif not waiting and open_ids:
            assert sent == [[]] * min(math.ceil(len(open_ids) / BATCH_MAX), HINTS_MAX)
        else:
            assert sent == []
        self.world.admin.execute("UPDATE open_intents SET dispatch_after = now() + interval '1 h'")

    @rule()
    def workers_catch_up(self) -> None:
        """One decides all there is."""
        self._decide_all()

    def _decide_all(self) -> None:
        self._work(0, [], looks_back=True)  # it may learn no more than that it was cut off
        count = total = self.model.run(0, [], looks_back=True, fate="")
        while count == BATCH_MAX:
            count = self.model.run(0, [], looks_back=False, fate="")
            total += count
        told = self.workers[0].run([], looks_back=True, fate="", until=float("inf"))
        assert told == total
        assert self.model.pending == {}

    # What happens to orders ----------------------------------------------------------------------

    @rule(
        which=_choices,
        events=st.lists(st.tuples(_events, st.sampled_from("ab")), min_size=1, max_size=4),
    )
    def an_order_lives_on(self, which: int, events: list[tuple[str, str]]) -> None:
        order_ids = list(self.model.orders)[::-1]
        for event, reference in events if order_ids else ():
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
        lifecycle.expire_due(self.change, 10_000)
        for order_id, made in self.model.orders.items():
            if made["due"] and made["status"] == "awaiting_payment":
                self.model.end(order_id, "expired")
        if window_ends == 5 and not self.model.ended:
            self.world.admin.execute("UPDATE campaigns SET coupons_valid_until = clock_timestamp()")
            self.model.ended = True
        lifecycle.expire_coupons(self.change, UUID(int=0), 10_000)
        self.model.expire_coupons()

    # What must be true ---------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        model, rows = self.model, self.world.rows
        stock = rows("SELECT sku, available, reserved, sold FROM stock")
        assert {sku: counts for sku, *counts in stock} == {
            sku: [units["available"], units["reserved"], units["sold"]]
            for sku, units in model.stock.items()
        }
        assert rows("SELECT reserved, spent FROM budgets") == [(model.reserved, model.spent)]
        coupons = rows("SELECT coupon_id, user_id, value, status FROM audit.coupons")
        assert {coupon_id: tuple(row) for coupon_id, *row in coupons} == {
            coupon_id: (coupon["user"], coupon["value"], coupon["status"])
            for coupon_id, coupon in model.coupons.items()
        }
        orders = rows(
            "SELECT o.order_id, o.status, o.discount, o.payable, (SELECT json_object_agg("
            "reference, p.status) FROM payments p WHERE p.order_id = o.order_id)::text"
            " FROM orders o"
        )
        assert {one: (s, d, p, json.loads(paid or "{}")) for one, s, d, p, paid in orders} == {
            order_id: (made["status"], made["discount"], made["payable"], made["payments"])
            for order_id, made in model.orders.items()
        }

    @invariant()
    def what_was_told_is_what_is_true(self) -> None:
        """Once each; again only where a commit was not answered; never where the teller died."""
        outcomes = self.world.rows(
            "SELECT intent_id, reason FROM audit.intents WHERE decided_at IS NOT NULL"
        )
        assert dict(outcomes) == self.model.reasons
        told = Counter((one.intent_id, one.refusal) for one in self.world.told)
        assert told == self.model.told

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.auditor.transaction():  # on one connection: its plans are made once
            report = audit.check_all(self.auditor, drained=not self.model.pending)
        assert [check for check in report.checks if check.violations] == []

    def teardown(self) -> None:
        """A story that went well ends well: nothing stays open."""
        with self.opened:
            if sys.exception() is None:
                self._decide_all()
                self.world.assert_clean()


@pytest.mark.slow
def test_no_story_leads_where_the_model_does_not(dsn: str, valkey_url: str) -> None:
    """Issue, order, pay, cancel, expire, ask again, whatever becomes of messages and processes."""
    _Story.dsn, _Story.valkey_url = dsn, valkey_url
    run_state_machine_as_test(
        _Story,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            phases=[Phase.generate],  # shrinking would take minutes of database; stories are short
            print_blob=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
