"""Calendar periods: when the present one ends, in a time zone, over changes of its clocks."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final

ENDLESS: Final = 1e18
"""The end of a period without end, in Unix seconds: a number that MessagePack and Lua can hold."""


class Per(StrEnum):
    """How long a period is. Weeks begin on Monday (ISO 8601); `TOTAL` never ends."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


_STEP_S: Final = {Per.MINUTE: 60.0, Per.HOUR: 3600.0}


def ends(per: Per, zone: tzinfo, now: float) -> tuple[float, float]:
    """Unix seconds at which the period of `now` ends, and the one after it.

    Days, weeks and months turn when the zone's clocks show midnight; where they skip it, at the first moment of the new
    day. So a day may have 23 or 25 hours. Hours and minutes always have 60 of their parts: they turn when the clocks
    show a full one, and where a zone's clocks go back over an hour, both count as hours.
    """
    if per is Per.TOTAL:
        return ENDLESS, ENDLESS
    here = datetime.fromtimestamp(now, zone)
    if per in _STEP_S:
        # Zones differ from UTC by quarters of an hour, and once by seconds.
        step_s, offset = _STEP_S[per], here.utcoffset() or timedelta()
        shown = now + offset.total_seconds()
        end = now + step_s - shown % step_s
        return end, end + step_s
    day = here.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    if per is Per.DAY:
        first = day + timedelta(days=1)
        second = day + timedelta(days=2)
    elif per is Per.WEEK:
        first = day + timedelta(days=7 - day.weekday())
        second = first + timedelta(days=7)
    else:
        first = _next_month(day)
        second = _next_month(first)
    return _second_of(first, zone), _second_of(second, zone)


def _next_month(day: datetime) -> datetime:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _second_of(midnight: datetime, zone: tzinfo) -> float:
    """When the zone's clocks show it, for the first time. Where they skip it, `fold=0` means the offset from before the
    jump (PEP 495), which is the moment of the jump, since clocks that skip midnight jump at midnight."""
    return midnight.replace(tzinfo=zone, fold=0).timestamp()
