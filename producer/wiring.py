"""How an intake is put together on the real servers, for every process that has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from config.settings import Settings
from producer.admitting import Admitting, pace_of
from producer.intake import Intake, Tell
from producer.levels import LevelBook
from producer.limits import LimitBook
from workers.contract.calendar import Calendar
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import open_client, open_gate
from workers.contract.ticket import Tickets
from workers.domain.odds import TAKEN_SHARE
from workers.store.pool import PRODUCER, opener


def open_limits(settings: Settings, name: str) -> LimitBook:
    """Make the book of rules; to be started. `name` is its connection's."""
    return LimitBook(opener(settings.postgres, PRODUCER, name))


def open_levels(settings: Settings, limits: LimitBook) -> LevelBook:
    """Make the book of levels; to be started."""
    return LevelBook(open_gate(settings).policy, limits.current)


def open_intake(
    settings: Settings,
    name: str,
    limits: LimitBook,
    levels: LevelBook,
    publish: Callable[[Sequence[UUID]], None],
    codes: CouponCodes,
    *,
    accept_timeout_ms: int,
    taken_share: Callable[[], float] = lambda: TAKEN_SHARE,
    tell: Tell | None = None,
) -> Intake:
    """Make an intake for one thread; it connects when it is first used.

    `taken_share` is what this process has counted for the odds, where it hears outcomes; `tell` is
    told of every batch.
    """
    gate = open_gate(settings)
    valkey, secrets = settings.valkey, settings.secrets
    admitting = Admitting(
        gate,
        Calendar(open_client(valkey.url, timeout_ms=valkey.timeout_ms), valkey.key_prefix),
        Tickets(secrets.master, secrets.old_masters),
        codes,
        limits.in_force,
        lambda: levels.standing.level,
        lambda: pace_of(levels.policy),
        taken_share,
    )
    return Intake(
        opener(settings.postgres, PRODUCER, name),
        gate,
        admitting,
        publish,
        codes,
        accept_timeout_ms=accept_timeout_ms,
        dispatch_after_ms=settings.redispatcher.dispatch_after_ms,
        tell=tell,
    )
