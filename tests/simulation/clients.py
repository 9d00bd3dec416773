"""Clients of the simulated pipeline: they post, hear, ask again, and remember what they were told.

Each client has one wish and one key for it. Whoever hears nothing, or nothing certain, asks again
with that key; whoever is refused by load comes back as told, a few times.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from producer.answers import Accepted, Answer, Limited, NotAccepted, Posted, Replayed, Unanswered
from workers.domain.intent import Kind, Line, OrderIntent
from workers.store.journal import key_digest

PATIENCE = 9
ASKED_AGAIN_S, PROBED_S = 31.0, 32.0  # long after the faults
UNHEARD_S = 6.0  # an answer takes no longer, whatever is dead
TTL_MS = 120_000
LEAST_MS, MOST_MS = 250, 2_000  # between these a client comes back


class Client:
    """One wish."""

    def __init__(self, crowd: Crowd, number: int, user: str, lines: tuple[Line, ...]) -> None:
        self._crowd = crowd
        self._pipeline = crowd.pipeline
        self.key = f"key-{number}"
        self.user = user
        self.intent = OrderIntent(user_id=user, campaign_id="spring", lines=lines, ttl_ms=TTL_MS)
        self.digest = key_digest("chat", Kind.ORDER, user, self.key)
        self.receipt: UUID | None = None
        self.refused: set[UUID] = set()  # ids of attempts that were answered "no"
        self.said: set[Any] = set()  # outcomes as heard
        self.faults: list[str] = []
        self.turns = 0
        self._waiting_for = 0  # the attempt whose answer counts
        self._posted_s: dict[UUID, float] = {}

    def post(self) -> None:
        """Ask, or ask again."""
        self.turns += 1
        self._waiting_for = turn = self.turns
        self._pipeline.inbox.put(self)
        self._pipeline.stage.after(UNHEARD_S, partial(self._unheard, turn))

    def _unheard(self, turn: int) -> None:
        if self._waiting_for == turn:
            self._again(LEAST_MS)

    def posted(self) -> Posted:
        """Return an attempt, with an id of its own."""
        posted = Posted(
            intent_id=self._crowd.make_id(),
            gateway_id="chat",
            idempotency_key=self.key,
            intent=self.intent,
        )
        self._posted_s[posted.intent_id] = self._pipeline.stage.now
        return posted

    def hear(self, posted: Posted, answer: Answer) -> None:
        """Take an answer in."""
        self._pipeline.say(self.key, "hears", type(answer).__name__, getattr(answer, "limit", ""))
        self._waiting_for = 0
        match answer:
            case Accepted(intent_id=intent_id):
                self._note(intent_id)
            case Replayed(resource=resource):
                self._note(resource.intent_id)
                if resource.decided_at is not None:
                    self.said.add((resource.intent_id, resource.refusal))
            case Unanswered(accepted="unknown"):
                self._again(LEAST_MS)
            case Limited(retry_after_ms=ms):
                self._no(posted)
                self._again(min(max(ms, LEAST_MS), MOST_MS))
            case NotAccepted(final=final):
                self._no(posted)
                stock = self._pipeline.database.stock
                if not final:
                    self._again(MOST_MS)
                elif all(sum(stock[line.sku][:2]) >= line.quantity for line in self.intent.lines):
                    self.faults.append(f"{self.key} was told sold out for good of {stock}")
            case Unanswered():
                self._no(posted)
                self._again(LEAST_MS)
            case _:
                self.faults.append(f"{self.key} heard {answer}")

    def _note(self, intent_id: UUID) -> None:
        if self.receipt not in (None, intent_id):
            self.faults.append(f"{self.key} has two receipts: {self.receipt}, {intent_id}")
        self.receipt = intent_id

    def _no(self, posted: Posted) -> None:
        """A no must be true: the key was not bound when it was asked, nor is this attempt ever."""
        self.refused.add(posted.intent_id)
        bound_s = self._pipeline.database.bound_s.get(self.digest)
        if bound_s is not None and bound_s < self._posted_s[posted.intent_id]:
            self.faults.append(f"{self.key} was told no, and is journalled since {bound_s:.2f}")

    def _again(self, wait_ms: float) -> None:
        if self.turns < PATIENCE:
            jitter = self._pipeline.luck.uniform(1.0, 1.2)
            self._pipeline.stage.after(wait_ms / 1_000 * jitter, self.post)


class Crowd:
    """All clients of a story."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._ids = 0
        luck = pipeline.luck
        self.clients: list[Client] = []
        self.probes: list[Client] = []
        count = luck.choice([8, 20, 50])
        for number in range(count):
            client = self._client(number)
            at_s = luck.choice([luck.uniform(0, 9), luck.gauss(4, 0.2)])  # some at once
            pipeline.stage.at(max(0.0, at_s), client.post)
            if luck.random() < 0.1:
                pipeline.stage.at(max(0.0, at_s), client.post)  # and some post twice
            if luck.random() < 0.02:
                luck.choice([pipeline.poison, pipeline.killers]).add(client.user)
        for client in self.clients:
            pipeline.stage.at(ASKED_AGAIN_S, partial(self._ask_again, client))
        for number in range(count, count + 4):
            probe = self._client(number)
            self.probes.append(probe)
            pipeline.stage.at(PROBED_S + luck.random(), probe.post)

    def _client(self, number: int) -> Client:
        luck = self.pipeline.luck
        skus = luck.sample(["bun", "tea"], luck.randint(1, 2))
        lines = tuple(Line(sku, luck.randint(1, 3)) for sku in sorted(skus))
        client = Client(self, number, f"user-{number}", lines)
        self.clients.append(client)
        return client

    def _ask_again(self, client: Client) -> None:
        """Whoever has a receipt asks what became of it."""
        if client.receipt is not None:
            client.post()

    def make_id(self) -> UUID:
        """Make a UUIDv7 of this moment."""
        self._ids += 1
        ms = self.pipeline.server.now_us() // 1_000
        return UUID(int=ms << 80 | 0x7 << 76 | (self._ids & 0xFFF) << 64 | 0b10 << 62 | self._ids)

    def faults(self) -> list[str]:
        """Return what clients were told that is not true."""
        return [
            fault for client in self.clients for fault in (*client.faults, *self._wrong(client))
        ]

    def _wrong(self, client: Client) -> list[str]:
        database, found = self.pipeline.database, []
        bound = database.keys.get(client.digest)
        intent_id = None if bound is None else bound.intent_id
        if client.receipt not in (None, intent_id):
            found.append(f"{client.key} has a receipt for {client.receipt}, bound is {intent_id}")
        found += [
            f"{client.key} was told no of {one}, and it is journalled"
            for one in client.refused
            if one in database.intents
        ]
        if client.user in self.pipeline.poison:
            return found
        if client.said:
            outcome = database.outcomes.get(intent_id)
            truth = None if outcome is None else outcome[0].refusal
            if client.said != {(intent_id, truth)}:
                found.append(f"{client.key} heard {client.said}, and the truth is {truth}")
        if client in self.probes and client.receipt is None and not self._may_be_refused(client):
            found.append(f"{client.key} came after all was healed, and was not served")
        return found

    def _may_be_refused(self, client: Client) -> bool:
        """Whether too little is left, or poison may hold the rest: it does until its own deadline."""
        stock = self.pipeline.database.stock
        short = any(stock[line.sku][0] < line.quantity for line in client.intent.lines)
        return short or bool(self.pipeline.poison)
