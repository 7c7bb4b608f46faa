"""When a budget's period ends, worked out by hand from the zones' published clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.periods import ENDLESS, Per, ends

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Beirut")


def second(text: str) -> float:
    """Unix second of an ISO 8601 time with its offset from UTC."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("per", "zone", "now", "first", "second_end"),
    [
        (Per.MINUTE, "UTC", "2026-03-01T12:00:30+00:00", "2026-03-01T12:01+00:00", "2026-03-01T12:02+00:00"),
        (Per.HOUR, "UTC", "2026-03-01T12:59:59+00:00", "2026-03-01T13:00+00:00", "2026-03-01T14:00+00:00"),
        # Kathmandu is 5:45 ahead: its full hours are UTC's quarter past.
        (Per.HOUR, "Asia/Kathmandu", "2026-03-01T12:10+00:00", "2026-03-01T12:15+00:00", "2026-03-01T13:15+00:00"),
        (Per.DAY, "UTC", "2026-02-28T23:59:59+00:00", "2026-03-01T00:00+00:00", "2026-03-02T00:00+00:00"),
        # Berlin, 29 March 2026: 2:00 becomes 3:00, so the day has 23 hours.
        (Per.DAY, "Europe/Berlin", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00", "2026-03-31T00:00+02:00"),
        # Berlin, 25 October 2026: 3:00 becomes 2:00, so the day has 25 hours; asked in the second 2:30.
        (Per.DAY, "Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-26T00:00+01:00", "2026-10-27T00:00+01:00"),
        # The hour that New York has twice on 1 November 2026 is two hours.
        (Per.HOUR, "America/New_York", "2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T02:00-05:00"),
        (Per.HOUR, "America/New_York", "2026-11-01T01:30-05:00", "2026-11-01T02:00-05:00", "2026-11-01T03:00-05:00"),
        # Beirut skips midnight: 29 March 2026 begins at 1:00.
        (Per.DAY, "Asia/Beirut", "2026-03-28T12:00+02:00", "2026-03-29T01:00+03:00", "2026-03-30T00:00+03:00"),
        (Per.WEEK, "UTC", "2026-11-29T12:00+00:00", "2026-11-30T00:00+00:00", "2026-12-07T00:00+00:00"),  # a Sunday
        (Per.WEEK, "UTC", "2026-11-30T00:00+00:00", "2026-12-07T00:00+00:00", "2026-12-14T00:00+00:00"),  # a Monday
        (Per.WEEK, "Europe/Berlin", "2026-10-24T12:00+02:00", "2026-10-26T00:00+01:00", "2026-11-02T00:00+01:00"),
        (Per.MONTH, "UTC", "2026-12-31T23:59+00:00", "2027-01-01T00:00+00:00", "2027-02-01T00:00+00:00"),
        (Per.MONTH, "UTC", "2028-01-31T12:00+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),  # leap year
        (Per.MONTH, "Europe/Berlin", "2026-03-15T12:00+01:00", "2026-04-01T00:00+02:00", "2026-05-01T00:00+02:00"),
        (Per.MONTH, "America/New_York", "2026-11-30T23:30-05:00", "2026-12-01T00:00-05:00", "2027-01-01T00:00-05:00"),
    ],
)
def test_the_end_of_the_present_period_and_of_the_next(per, zone, now, first, second_end):
    assert ends(per, ZoneInfo(zone), second(now)) == (second(first), second(second_end))


def test_a_total_has_no_end():
    assert ends(Per.TOTAL, UTC, 0.0) == (ENDLESS, ENDLESS)


@given(
    st.sampled_from([per for per in Per if per is not Per.TOTAL]),
    st.sampled_from(ZONES),
    st.floats(second("2020-01-01T00:00+00:00"), second("2035-01-01T00:00+00:00")),
)
def test_a_period_lasts_until_its_end_and_the_next_begins_there(per, zone, now):
    info = ZoneInfo(zone)
    first, following = ends(per, info, now)
    assert now < following
    assert first < following
    if first > now + 1e-3:  # else midnight came twice, and its first time has passed
        assert ends(per, info, (now + first) / 2)[0] == first
        assert ends(per, info, first)[0] == following
    longest = {Per.MINUTE: 60, Per.HOUR: 3600, Per.DAY: 25 * 3600, Per.WEEK: 169 * 3600, Per.MONTH: 745 * 3600}
    assert first - now <= timedelta(seconds=longest[per]).total_seconds()
