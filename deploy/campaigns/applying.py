"""Applying a campaign file: gather what stands, plan, write; one transaction, audited.

Applying the same file again changes nothing. How a running campaign may be changed is said by
`workers.domain.campaign_change`; stock in short: `stock` is the opening stock and never changes,
and each `stock_delta` is applied once, known by its `stock_delta_id` (or, without one, by its own
number), however often the file is applied.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from deploy.actor import whoami
from workers.domain.campaign import CampaignFile, CampaignFileError, Fault, parse, scaled, shifted
from workers.domain.campaign_change import Plan, plan
from workers.store import campaigns
from workers.store.pool import OWNER, Bounds, Connection, connect

# An application waits its turn at hot rows; then it holds them for some milliseconds.
BOUNDS = Bounds(statement_timeout_ms=60_000, lock_timeout_ms=20_000, idle_in_transaction_ms=60_000)


class ApplyReport(Struct, frozen=True, kw_only=True):
    """What an application changed, or would change.

    `users` and `coupons` are how many users the campaign has met and how many unredeemed coupons
    they hold: whom the changes touch at most. They are counted only in a dry run.
    """

    campaign_id: str
    dry_run: bool
    created: bool
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    users: int | None = None
    coupons: int | None = None


def apply(
    dsn: str,
    source: Path | str | CampaignFile,
    *,
    dry_run: bool = False,
    shift_to_now: bool = False,
    scale: float = 1.0,
    actor: str | None = None,
    reason: str | None = None,
) -> ApplyReport:
    """Apply a campaign file: its path, its TOML text, or what `parse` made of it.

    `dry_run` plans and writes all the same, and rolls back. `shift_to_now` moves all windows, so
    that a new campaign starts now and one that is there keeps its start; `scale` multiplies opening
    stock and budget: both are for replaying a campaign of another day or size. `actor` (by default
    the login and host that run this) and `reason` are kept with the change. Raises
    CampaignFileError with every reason why the file cannot be applied; then nothing is changed.
    """
    file = scaled(_read(source), scale)
    with connect(dsn, OWNER, BOUNDS, name="campaign") as connection:
        users, coupons = _touched(connection, file) if dry_run else (None, None)
        with connection.transaction(force_rollback=dry_run):
            planned = _apply(connection, file, shift_to_now, actor or whoami(), reason)
    return ApplyReport(
        campaign_id=file.campaign.campaign_id,
        dry_run=dry_run,
        created=planned.created,
        changes=planned.changes,
        notes=planned.notes,
        users=users,
        coupons=coupons,
    )


def _read(source: Path | str | CampaignFile) -> CampaignFile:
    if isinstance(source, CampaignFile):
        return source
    if isinstance(source, Path):
        try:
            source = source.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise CampaignFileError(
                [Fault("file", f"is not UTF-8: {error}", "save it so")]
            ) from None
    return parse(source)


def _touched(connection: Connection, file: CampaignFile) -> tuple[int, int]:
    return campaigns.count_touched(connection, file.campaign.campaign_id)


def _apply(
    connection: Connection,
    file: CampaignFile,
    shift_to_now: bool,
    actor: str,
    reason: str | None,
) -> Plan:
    campaign_id = file.campaign.campaign_id
    standing = campaigns.lock_standing(
        connection, campaign_id, [merchant.id for merchant in file.merchants]
    )
    if shift_to_now:
        file = shifted(file, standing.campaign.starts_at if standing.campaign else standing.now)
    planned = plan(file, standing)
    if planned.changes:
        campaigns.write_plan(connection, planned)
        campaigns.record_action(
            connection,
            actor,
            "campaign apply",
            f"campaign:{campaign_id}",
            reason,
            changes=planned.changes,
        )
    return planned
