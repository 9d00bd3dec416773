"""A batch of candidates in the packed form that gate.lua specifies, and its verdicts.

A batch names each limit once, however many candidates share it; a limit is then its place in that
list. Limits of one user or one conversation are each candidate's own; the others (gateway,
campaign, SKU, merchant) form a route, which many candidates share, with the units that they want.

User and conversation ids reach Valkey only as hashes: they are personal, they may be long, and
hostile ones must neither collide nor break a key. The hash covers gateway and campaign as well, so
that two gateways' users never meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import msgspec

from workers.contract.admission import (
    LAYERS,
    CampaignLimits,
    Candidate,
    Limits,
    RateLimit,
    Units,
    Verdict,
)
from workers.contract.gate_answer import Reply
from workers.contract.gate_policy import (
    BALANCE_AGE_US_MAX,
    CLASS_PLACES,
    PACKED_SHARES,
    ordered_numbers,
)
from workers.domain.overload import IntentClass

_PLACES: Final = {layer: place for place, layer in enumerate(LAYERS, 1)}
_USER, _CONVERSATION = _PLACES["user"], _PLACES["conversation"]
_GATEWAY, _CAMPAIGN, _SKU = _PLACES["gateway"], _PLACES["campaign"], _PLACES["sku"]
_MERCHANT, _STOCK, _BUDGET = _PLACES["merchant"], _PLACES["stock"], _PLACES["budget"]
_NO_LIMIT = 0
_NO_WANT = 0
_NO_CAMPAIGN_LIMITS: Final = CampaignLimits()
_ORDER: Final = IntentClass.ORDER
_ADMITTED: Final = (None, 0)
_NO_SHORTAGE: Final = (False, 0, 0, 0)


class _Own:
    """One layer of limits that belong to single users or conversations of one plan."""

    __slots__ = ("hash", "key_head", "places", "rate")

    def __init__(self, rate: int, key_head: str, scope: bytes) -> None:
        self.rate = rate
        self.key_head = key_head
        self.hash = blake2b(scope, digest_size=16)
        self.places: dict[str, int] = {}

    def key(self, owner: str) -> str:
        hashed = self.hash.copy()
        hashed.update(owner.encode())
        return self.key_head + hashed.hexdigest()


class _Plan:
    """What all candidates of one gateway and one campaign have in common."""

    __slots__ = (
        "conversation",
        "gateway",
        "gateway_limit",
        "gateway_name",
        "routes",
        "shared",
        "sku",
        "user",
        "user_limit",
    )

    def __init__(self, gateway_name: int) -> None:
        self.gateway_name = gateway_name
        self.user_limit: RateLimit | None = None
        self.user: _Own | None = None
        self.conversation: _Own | None = None
        self.sku: RateLimit | None = None
        self.gateway = _NO_LIMIT
        self.gateway_limit: RateLimit | None = None
        self.shared: list[int] = []
        # By SKUs alone, or by SKUs, merchants and units where there are any.
        self.routes: dict[tuple[Any, ...], int] = {}


class Batch:
    """Candidates on their way to the gate: packs the question, reads the answer."""

    def __init__(self, candidates: Sequence[Candidate], limits: Limits, key_root: str) -> None:
        self._candidates = candidates
        self._limits = limits
        self._key_root = key_root
        self._rates: list[tuple[int, float, int]] = []
        self._rate_places: dict[tuple[int, RateLimit], int] = {}
        self._keys: list[str] = []
        self._rate_of: list[int] = []
        self._shared_places: dict[str, int] = {}
        self._gateways: dict[str, int] = {}
        self._balances: dict[str, int] = {}
        self._wants: list[list[int]] = []
        self._want_places: dict[tuple[Units, ...], int] = {(): _NO_WANT}
        self._plans: dict[tuple[str, str], _Plan] = {}
        self._routes: list[list[int]] = []
        self._facts: list[int] = []
        self._takes: list[int] = []
        self._plan_of: list[_Plan] = []
        for candidate in candidates:
            self._add(candidate)

    def ids(self) -> bytes:
        """Return the candidates' ids, joined."""
        return join_ids([candidate.intent_id for candidate in self._candidates])

    def packed(self, in_flight_max: int, unreconciled: RateLimit) -> bytes:
        """Return the last argument of tidegate_admit_2.

        The unreconciled rate is what is trusted to be served where nothing is known. So it is also
        what deadlines are judged by before a service rate was measured, and what one that nobody
        measures any more counts for at least.
        """
        return msgspec.msgpack.encode(
            (
                (in_flight_max, BALANCE_AGE_US_MAX, unreconciled.rate),
                (unreconciled.interval_us, unreconciled.burst),
                ordered_numbers(self._limits.ordered),
                PACKED_SHARES,
                self._rates,
                self._keys,
                self._rate_of,
                list(self._gateways),
                list(self._balances),
                [_STOCK if key.startswith("stock:") else _BUDGET for key in self._balances],
                self._wants,
                self._routes,
                self._facts,
                self._takes,
                self._classes(),
                self._ttls_ms(),
            )
        )

    def verdicts(self, answer: bytes) -> list[Verdict]:
        """Read the reply of tidegate_admit_2: one verdict each, in the candidates' order."""
        reply = Reply(answer)
        reconciled, in_flight, level = reply.reconciled, reply.in_flight, reply.level
        fresh, wait_ms = reply.policy_fresh, reply.predicted_wait_ms
        refusals, shortages, lasts = reply.refusals, reply.shortages, reply.lasts_until_ms
        verdicts = []
        for at, plan in enumerate(self._plan_of):
            user = gateway = None
            if plan.user_limit is not None:
                user = reply.quota(self._takes[3 * at], plan.user_limit)
            if plan.gateway_limit is not None:
                gateway = reply.quota(plan.gateway, plan.gateway_limit)
            limit, retry_after_ms = refusals.get(at, _ADMITTED)
            final, ahead, left, wanted = shortages.get(at, _NO_SHORTAGE)
            verdicts.append(
                Verdict(
                    limit is None,
                    limit,
                    retry_after_ms,
                    reconciled,
                    in_flight,
                    user,
                    gateway,
                    level,
                    fresh,
                    wait_ms,
                    final,
                    ahead,
                    left,
                    lasts.get(at),
                    wanted,
                )
            )
        return verdicts

    def _classes(self) -> list[int]:
        """Return the candidates' classes; empty: all are orders."""
        for candidate in self._candidates:
            if candidate.intent_class is not _ORDER:
                return [CLASS_PLACES[one.intent_class] for one in self._candidates]
        return []

    def _ttls_ms(self) -> list[int]:
        """Return how long each candidate's outcome is worth waiting for; one if all are equal."""
        ttls_ms = [candidate.ttl_ms for candidate in self._candidates]
        return ttls_ms[:1] if ttls_ms.count(ttls_ms[0]) == len(ttls_ms) else ttls_ms

    def _add(self, candidate: Candidate) -> None:
        plan = self._plans.get((candidate.gateway_id, candidate.campaign_id))
        if plan is None:
            plan = self._plan(candidate.gateway_id, candidate.campaign_id)
        way: tuple[Any, ...] = candidate.skus
        if candidate.units or candidate.merchants:
            way = (way, candidate.merchants, candidate.units)
        route = plan.routes.get(way)
        if route is None:
            route = plan.routes[way] = self._route(plan, candidate)
        user = conversation = _NO_LIMIT
        if plan.user is not None:
            user = self._own_place(plan.user, candidate.user_id)
        if plan.conversation is not None and candidate.conversation_id is not None:
            conversation = self._own_place(plan.conversation, candidate.conversation_id)
        self._takes += (user, conversation, route)
        self._plan_of.append(plan)

    def _plan(self, gateway_id: str, campaign_id: str) -> _Plan:
        name = self._gateways.setdefault(gateway_id, len(self._gateways) + 1)
        plan = self._plans[gateway_id, campaign_id] = _Plan(name)
        limits = self._limits.campaigns.get(campaign_id, _NO_CAMPAIGN_LIMITS)
        # The length keeps apart ("a", "bc") and ("ab", "c"), and the owner that follows from both.
        scope = f"{len(gateway_id)}:{gateway_id}{len(campaign_id)}:{campaign_id}".encode()
        plan.user_limit = limits.user
        plan.user = self._own(_USER, limits.user, scope)
        plan.conversation = self._own(_CONVERSATION, limits.conversation, scope)
        plan.sku = limits.sku
        plan.gateway_limit = self._limits.gateways.get(gateway_id)
        plan.gateway = self._shared_place(_GATEWAY, plan.gateway_limit, gateway_id)
        campaign = self._shared_place(_CAMPAIGN, limits.campaign, campaign_id)
        plan.shared = [place for place in (plan.gateway, campaign) if place != _NO_LIMIT]
        return plan

    def _route(self, plan: _Plan, candidate: Candidate) -> int:
        places = list(plan.shared)
        if plan.sku is not None:
            scope = f"{len(candidate.campaign_id)}:{candidate.campaign_id}:"
            places += [
                self._shared_place(_SKU, plan.sku, scope + sku)
                for sku in dict.fromkeys(candidate.skus)
            ]
        is_paused = False
        for merchant in dict.fromkeys(candidate.merchants):
            limit = self._limits.merchants.get(merchant)
            if limit is not None:
                places.append(self._shared_place(_MERCHANT, limit, merchant))
            is_paused |= limit is None and merchant in self._limits.merchants
        self._routes.append(places)
        self._facts += (plan.gateway_name, int(is_paused), self._want(candidate.units))
        return len(self._routes)

    def _want(self, units: tuple[Units, ...]) -> int:
        """Return the place of what these units sum up to by balance."""
        place = self._want_places.get(units)
        if place is None:
            sums: dict[int, int] = {}
            for one in units:
                balance = self._balances.setdefault(one.key, len(self._balances) + 1)
                sums[balance] = sums.get(balance, 0) + one.amount
            self._wants.append([number for pair in sums.items() for number in pair])
            place = self._want_places[units] = len(self._wants)
        return place

    def _own(self, layer: int, limit: RateLimit | None, scope: bytes) -> _Own | None:
        if limit is None:
            return None
        return _Own(self._rate(layer, limit), self._key(layer, ""), scope)

    def _own_place(self, own: _Own, owner: str) -> int:
        place = own.places.get(owner)
        if place is None:
            place = own.places[owner] = self._place(own.key(owner), own.rate)
        return place

    def _shared_place(self, layer: int, limit: RateLimit | None, owner: str) -> int:
        if limit is None:
            return _NO_LIMIT
        key = self._key(layer, owner)
        place = self._shared_places.get(key)
        if place is None:
            place = self._shared_places[key] = self._place(key, self._rate(layer, limit))
        return place

    def _place(self, key: str, rate: int) -> int:
        self._keys.append(key)
        self._rate_of.append(rate)
        return len(self._keys)

    def _rate(self, layer: int, limit: RateLimit) -> int:
        place = self._rate_places.get((layer, limit))
        if place is None:
            self._rates.append((layer, limit.interval_us, limit.burst))
            place = self._rate_places[layer, limit] = len(self._rates)
        return place

    def _key(self, layer: int, owner: str) -> str:
        return f"{self._key_root}:{LAYERS[layer - 1]}:{owner}"


def join_ids(ids: Sequence[UUID]) -> bytes:
    """Return the ids' 16 bytes each, joined."""
    return b"".join([intent_id.bytes for intent_id in ids])
