"""A batch of candidates in the packed form that gate.lua specifies, and its answer.

A batch names each limit once, however many candidates share it; a limit is then its place in that
list. Limits of one user or one conversation are each candidate's own; the others (gateway,
campaign, sku) form a route, which many candidates share.

User and conversation ids reach Valkey only as hashes: they are personal, they may be long, and
hostile ones must neither collide nor break a key. The hash covers gateway and campaign as well, so
that two gateways' users never meet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.contract.admission import (
    LAYERS,
    CampaignLimits,
    Candidate,
    Quota,
    RateLimit,
    Verdict,
)

# When there is room in flight again, only who knows the service rate can say: this is a guess. It
# also caps the wait for the unreconciled rate: a reconciliation takes seconds at most.
IN_FLIGHT_RETRY_AFTER_MS: Final = 1_000

_USER, _CONVERSATION, _GATEWAY, _CAMPAIGN, _SKU, _IN_FLIGHT = range(
    1, 7
)  # Places in LAYERS, from 1.
_NO_LIMIT = 0


class _Reply(Struct, array_like=True):
    reconciled: int
    in_flight: int
    refusals: list[int]
    backlogs_us: list[float]


class _Own:
    """One layer of limits that belong to single users or conversations of one plan."""

    __slots__ = ("hash", "key_head", "places", "policy")

    def __init__(self, policy: int, key_head: str, scope: bytes) -> None:
        self.policy = policy
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
        "routes",
        "shared",
        "sku",
        "user",
        "user_limit",
    )

    def __init__(self) -> None:
        self.user_limit: RateLimit | None = None
        self.user: _Own | None = None
        self.conversation: _Own | None = None
        self.sku: RateLimit | None = None
        self.gateway = _NO_LIMIT
        self.gateway_limit: RateLimit | None = None
        self.shared: list[int] = []
        self.routes: dict[tuple[str, ...], int] = {}


class Batch:
    """Candidates on their way to the gate: packs the question, reads the answer."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        campaign_limits: Mapping[str, CampaignLimits],
        gateway_limits: Mapping[str, RateLimit],
        key_root: str,
    ) -> None:
        self._candidates = candidates
        self._campaign_limits = campaign_limits
        self._gateway_limits = gateway_limits
        self._key_root = key_root
        self._policies: list[tuple[int, float, int]] = []
        self._policy_places: dict[tuple[int, RateLimit], int] = {}
        self._keys: list[str] = []
        self._policy_of: list[int] = []
        self._shared_places: dict[str, int] = {}
        self._plans: dict[tuple[str, str], _Plan] = {}
        self._routes: list[list[int]] = []
        self._takes: list[int] = []
        self._plan_of: list[_Plan] = []
        for candidate in candidates:
            self._add(candidate)

    def ids(self) -> bytes:
        """Return the candidates' ids, joined."""
        return join_ids([candidate.intent_id for candidate in self._candidates])

    def packed(self, in_flight_max: int, unreconciled: RateLimit) -> bytes:
        """Return the second argument of tidegate_admit."""
        return msgspec.msgpack.encode(
            (
                in_flight_max,
                (unreconciled.interval_us, unreconciled.burst),
                self._policies,
                self._keys,
                self._policy_of,
                self._routes,
                self._takes,
            )
        )

    def verdicts(self, answer: bytes) -> list[Verdict]:
        """Read the reply of tidegate_admit: one verdict each, in the candidates' order."""
        reply = msgspec.msgpack.decode(answer, type=_Reply)
        refusals = _refusals(reply)
        quotas: dict[int, Quota] = {}
        reconciled = reply.reconciled == 1
        verdicts = []
        for at, plan in enumerate(self._plan_of):
            limit, retry_after_ms = refusals.get(at, (None, 0))
            user = self._takes[3 * at]
            verdicts.append(
                Verdict(
                    limit is None,
                    limit,
                    retry_after_ms,
                    reconciled,
                    reply.in_flight,
                    _quota(user, plan.user_limit, reply, quotas),
                    _quota(plan.gateway, plan.gateway_limit, reply, quotas),
                )
            )
        return verdicts

    def _add(self, candidate: Candidate) -> None:
        plan = self._plans.get((candidate.gateway_id, candidate.campaign_id))
        if plan is None:
            plan = self._plan(candidate.gateway_id, candidate.campaign_id)
        route = plan.routes.get(candidate.skus)
        if route is None:
            route = self._route(plan, candidate.campaign_id, candidate.skus)
        user = self._own_place(plan.user, candidate.user_id)
        conversation = self._own_place(plan.conversation, candidate.conversation_id)
        self._takes += (user, conversation, route)
        self._plan_of.append(plan)

    def _plan(self, gateway_id: str, campaign_id: str) -> _Plan:
        plan = self._plans[gateway_id, campaign_id] = _Plan()
        limits = self._campaign_limits.get(campaign_id, CampaignLimits())
        # The length keeps apart ("a", "bc") and ("ab", "c"), and the owner that follows from both.
        scope = f"{len(gateway_id)}:{gateway_id}{len(campaign_id)}:{campaign_id}".encode()
        plan.user_limit = limits.user
        plan.user = self._own(_USER, limits.user, scope)
        plan.conversation = self._own(_CONVERSATION, limits.conversation, scope)
        plan.sku = limits.sku
        plan.gateway_limit = self._gateway_limits.get(gateway_id)
        plan.gateway = self._shared_place(_GATEWAY, plan.gateway_limit, gateway_id)
        campaign = self._shared_place(_CAMPAIGN, limits.campaign, campaign_id)
        plan.shared = [place for place in (plan.gateway, campaign) if place != _NO_LIMIT]
        return plan

    def _route(self, plan: _Plan, campaign_id: str, skus: tuple[str, ...]) -> int:
        limits = list(plan.shared)
        if plan.sku is not None:
            scope = f"{len(campaign_id)}:{campaign_id}:"
            limits += [
                self._shared_place(_SKU, plan.sku, scope + sku) for sku in dict.fromkeys(skus)
            ]
        self._routes.append(limits)
        place = plan.routes[skus] = len(self._routes)
        return place

    def _own(self, layer: int, limit: RateLimit | None, scope: bytes) -> _Own | None:
        if limit is None:
            return None
        return _Own(self._policy(layer, limit), self._key(layer, ""), scope)

    def _own_place(self, own: _Own | None, owner: str | None) -> int:
        if own is None or owner is None:
            return _NO_LIMIT
        place = own.places.get(owner)
        if place is None:
            place = own.places[owner] = self._place(own.key(owner), own.policy)
        return place

    def _shared_place(self, layer: int, limit: RateLimit | None, owner: str) -> int:
        if limit is None:
            return _NO_LIMIT
        key = self._key(layer, owner)
        place = self._shared_places.get(key)
        if place is None:
            place = self._shared_places[key] = self._place(key, self._policy(layer, limit))
        return place

    def _place(self, key: str, policy: int) -> int:
        self._keys.append(key)
        self._policy_of.append(policy)
        return len(self._keys)

    def _policy(self, layer: int, limit: RateLimit) -> int:
        place = self._policy_places.get((layer, limit))
        if place is None:
            self._policies.append((layer, limit.interval_us, limit.burst))
            place = self._policy_places[layer, limit] = len(self._policies)
        return place

    def _key(self, layer: int, owner: str) -> str:
        return f"{self._key_root}:{LAYERS[layer - 1]}:{owner}"


def join_ids(ids: Sequence[UUID]) -> bytes:
    """Return the ids' 16 bytes each, joined."""
    return b"".join([intent_id.bytes for intent_id in ids])


def _refusals(reply: _Reply) -> dict[int, tuple[str, int]]:
    flat = iter(reply.refusals)
    return {
        candidate - 1: (LAYERS[layer - 1], _retry_after_ms(layer, wait_us))
        for candidate, layer, wait_us in zip(flat, flat, flat, strict=True)
    }


def _retry_after_ms(layer: int, wait_us: int) -> int:
    wait_ms = math.ceil(wait_us / 1000)
    if layer != _IN_FLIGHT:
        return wait_ms
    return min(wait_ms or IN_FLIGHT_RETRY_AFTER_MS, IN_FLIGHT_RETRY_AFTER_MS)


def _quota(
    place: int, limit: RateLimit | None, reply: _Reply, known: dict[int, Quota]
) -> Quota | None:
    if place == _NO_LIMIT or limit is None:
        return None
    quota = known.get(place)
    if quota is None:
        backlog_us = reply.backlogs_us[place - 1]
        remaining = max(0, math.floor(limit.burst - (backlog_us - 0.5) / limit.interval_us))
        quota = known[place] = Quota(limit, remaining, math.ceil(backlog_us / 1000))
    return quota
