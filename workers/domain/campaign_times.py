"""Times of a campaign file: local to its time zone, or with an offset of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from workers.domain.campaign_faults import Faults, nearest


def read_zone(name: str, key: str, faults: Faults) -> ZoneInfo | None:
    """Return the IANA zone `name`, or note a fault."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path, or a folder of zones
        faults.note(key, f"there is no time zone {name!r}", nearest(name, available_timezones()))
        return None


def read_instant(at: datetime, zone: ZoneInfo, key: str, faults: Faults) -> datetime | None:
    """Return the UTC instant of a time of the file, or note why there is none or more than one.

    A time that carries an offset stands for itself. A local time must be shown by the zone's
    clocks exactly once.
    """
    try:
        if at.tzinfo is not None:
            return at.astimezone(UTC)
        earlier, later = (at.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    except OverflowError:
        faults.note(key, f"{at.isoformat()} is out of range", "write the year in full")
        return None
    if earlier == later:
        return earlier
    if earlier.astimezone(zone).replace(tzinfo=None) != at:
        problem, options = "is skipped by", (later, earlier)
        mend = "write a time before or after the change, such as"
    else:
        problem, options = "is shown twice by", (earlier, later)
        mend = "write it with its offset:"
    both = " or ".join(option.astimezone(zone).isoformat() for option in options)
    faults.note(key, f"{at.isoformat()} {problem} the clocks of {zone.key}", f"{mend} {both}")
    return None
