"""What can be asked about usage: spans in words, the zone's clocks, and which slots answer."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.money.question import EVERY, BadQuestionError, question
from quotapool.money.rollups import DAY, HOUR, MINUTE, RESOLUTIONS, NotKeptError, ceiling, cover, floor

NOW = datetime(2026, 11, 22, 17, 23, 45, tzinfo=UTC)  # a Sunday


def ask(since, until=None, every=None, *, by="client", zone="UTC", now=NOW):
    return question(by, since, until, every, zone=zone, now=now)


def span(*words, **more):
    asked = ask(*words, **more)
    return f"{asked.since:%m-%d %H:%M}", f"{asked.until:%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("since", "until", "every", "expected"),
    [
        # Days are UTC days, and the last one is included.
        ("2026-11-20", None, None, ("11-20 00:00", "11-23 00:00")),
        ("2026-11-20", "2026-11-21", None, ("11-20 00:00", "11-22 00:00")),
        ("7d", None, None, ("11-16 00:00", "11-23 00:00")),
        ("1d", None, None, ("11-22 00:00", "11-23 00:00")),
        ("month", None, None, ("11-01 00:00", "11-23 00:00")),
        # Times are not included; now is the end of this minute.
        ("15:00", "16:00", None, ("11-22 15:00", "11-22 16:00")),
        ("15:00", None, None, ("11-22 15:00", "11-22 17:24")),
        ("9:05", "2026-11-22T09:10", None, ("11-22 09:05", "11-22 09:10")),
        ("2026-11-22 15:00", "2026-11-22", None, ("11-22 15:00", "11-23 00:00")),
        ("2026-11-21T23:30:00Z", "2026-11-22T01:30+01:00", None, ("11-21 23:30", "11-22 00:30")),
        ("2026-11-22T15:00:31", "2026-11-22T15:59:31", None, ("11-22 15:00", "11-22 16:00")),
        ("90m", None, None, ("11-22 15:53", "11-22 17:24")),
        ("24h", None, None, ("11-21 17:23", "11-22 17:24")),
        ("2h", "1h", None, ("11-22 15:23", "11-22 16:23")),
        # What is older than minutes are kept begins with its hour.
        ("72h", "17:00", None, ("11-19 17:00", "11-22 17:00")),
        # Steps are whole.
        ("90m", None, "5m", ("11-22 15:50", "11-22 17:25")),
        ("15:20", "15:40", "1h", ("11-22 15:00", "11-22 16:00")),
        ("24h", None, "1d", ("11-21 00:00", "11-23 00:00")),
        # Beyond what is kept, and beyond today
        ("2020-01-01", None, None, ("10-18 00:00", "11-23 00:00")),
        ("15:00", "9999-12-31", None, ("11-22 15:00", "11-23 00:00")),
    ],
)
def test_a_span_in_words(since, until, every, expected):
    assert span(since, until, every) == expected


@pytest.mark.parametrize(
    ("since", "until", "now", "expected"),
    [
        # Berlin is an hour ahead of UTC in winter, two in summer.
        ("15:00", "16:00", datetime(2026, 11, 22, 17, 0, tzinfo=UTC), ("11-22 14:00", "11-22 15:00")),
        ("15:00", "16:00", datetime(2026, 7, 1, 17, 0, tzinfo=UTC), ("07-01 13:00", "07-01 14:00")),
        # At 23:30 UTC it is the next day there.
        ("00:15", None, datetime(2026, 11, 22, 23, 30, tzinfo=UTC), ("11-22 23:15", "11-22 23:30")),
        # On 29 March 2026 the clocks went from 02:00 to 03:00: two hours on the clock, one of time.
        ("01:30", "03:30", datetime(2026, 3, 29, 12, 0, tzinfo=UTC), ("03-29 00:30", "03-29 01:30")),
        # On 25 October 2026 they went from 03:00 to 02:00: half past two came twice, and the first one counts.
        ("02:30", "03:30", datetime(2026, 10, 25, 12, 0, tzinfo=UTC), ("10-25 00:30", "10-25 02:30")),
        ("2026-10-25T02:30+01:00", "03:30", datetime(2026, 10, 25, 12, 0, tzinfo=UTC), ("10-25 01:30", "10-25 02:30")),
    ],
)
def test_times_of_day_are_those_of_the_pools_zone(since, until, now, expected):
    assert span(since, until, zone="Europe/Berlin", now=now) == expected


@pytest.mark.parametrize(
    ("words", "option", "says"),
    [
        ({"since": "yesterday"}, "since", "'yesterday' must be a day (2026-11-01), a time"),
        ({"since": ""}, "since", "'' must be"),
        ({"since": "7"}, "since", "must be"),
        ({"since": "24:30"}, "since", "must be"),
        ({"since": "2026-13-01"}, "since", "must be"),
        ({"since": "2026-11-23"}, "since", "in the future (now is 2026-11-22 17:23 in UTC)"),
        ({"since": "18:00"}, "since", "in the future"),
        ({"since": "15:00", "until": "teatime"}, "until", "'teatime' must be"),
        ({"since": "15:00", "until": "15:00"}, "until", "2026-11-22 15:00 in UTC is not after 2026-11-22 15:00 in UTC"),
        ({"since": "7d", "until": "2020-01-01"}, "until", "older than the 400 days"),
        ({"since": "1h", "every": "7m"}, "every", "'7m' must be one of 1m, 5m, 1h, 1d"),
        ({"since": "1h", "by": "moon"}, "by", "'moon' must be one of account, key, model, client, day, pool"),
        ({"since": "1h", "by": "client,key"}, "by", "pairs are client,model; account,model; key,model"),
        ({"since": "1h", "by": "client,client"}, "by", "is not kept"),
        ({"since": "1h", "by": "client,model,day"}, "by", "is not kept"),
        ({"since": "7d", "by": "day", "every": "1h"}, "every", "contradicts a row for each day"),
        # 48 hours before are 20 November, 17:23.
        ({"since": "2026-11-19", "every": "5m"}, "every", "minutes are kept for 48 hours, and 2026-11-19 00:00 in UTC"),
        ({"since": "2026-11-19T15:20"}, "since", "minutes are kept for 48 hours, and 2026-11-19 15:20 in UTC is older"),
        ({"since": "2026-11-19T15:00", "until": "2026-11-19T15:20"}, "since", "2026-11-19 15:00 in UTC is older"),
        # 90 days before are 24 August.
        ({"since": "2026-08-01", "every": "1h"}, "every", "hours are kept for 90 days, and 2026-08-01 00:00 in UTC"),
        ({"since": "2026-08-01T15:00"}, "since", "begin and end with days of UTC"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(words, option, says):
    with pytest.raises(BadQuestionError) as refused:
        ask(**words)
    assert refused.value.option == option
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_time_that_the_clocks_skipped_is_refused():
    with pytest.raises(BadQuestionError, match=r"2026-03-29 02:30 does not exist in Europe/Berlin"):
        ask("02:30", zone="Europe/Berlin", now=datetime(2026, 3, 29, 12, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("since", "until", "every", "expected"),
    [
        ("15:00", "16:00", None, {HOUR: 1}),
        ("15:00", "16:00", "5m", {MINUTE: 60}),
        ("15:30", "16:30", None, {MINUTE: 60}),
        ("14:30", "16:10", None, {MINUTE: 40, HOUR: 1}),
        ("2026-11-20T22:00", "2026-11-22T02:00", None, {HOUR: 4, DAY: 1}),
        ("2026-11-20T22:00", "2026-11-22T02:00", "1h", {HOUR: 28}),
        ("7d", None, None, {DAY: 7}),
        ("7d", None, "1d", {DAY: 7}),
        ("2026-11-21T12:00", None, "1d", {DAY: 2}),
    ],
)
def test_slots_are_as_long_as_the_span_and_the_steps_allow(since, until, every, expected):
    assert Counter(resolution for resolution, _ in ask(since, until, every).slots) == expected


MINUTES = st.integers(min_value=0, max_value=47 * 60)


@given(MINUTES, MINUTES, st.sampled_from(sorted(EVERY)))
def test_slots_are_the_span_without_gaps_and_never_longer_than_a_step(first, last, every):
    size = EVERY[every]
    begin, end = (NOW - timedelta(minutes=minutes) for minutes in (max(first, last), min(first, last)))
    since, until = floor(begin, size), ceiling(end, size)
    at = since
    for resolution, start in cover(since, until, size, NOW):
        assert start == at == resolution.start(at)
        assert resolution.size <= size
        assert floor(start, size) == floor(start + resolution.size - timedelta(minutes=1), size)  # in one step
        at += resolution.size
    assert at == until


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_slot_is_read_for_as_long_as_it_is_kept_and_not_longer(resolution):
    oldest = resolution.start(NOW - resolution.kept)
    assert cover(oldest, oldest + resolution.size, resolution.size, NOW) == [(resolution, oldest)]
    before = oldest - resolution.size
    with pytest.raises(NotKeptError) as refused:
        cover(before, before + resolution.size, resolution.size, NOW)
    assert refused.value.kept is {MINUTE: HOUR, HOUR: DAY, DAY: None}[resolution]


def test_rows_of_days_are_called_by_their_day():
    asked = ask("7d", by="client,day")
    assert (asked.names, asked.per_day, asked.every, asked.by) == (("client",), True, timedelta(days=1), "client,day")
    assert asked.slots[0] == (DAY, datetime.combine(date(2026, 11, 16), datetime.min.time(), UTC))


@pytest.mark.parametrize(
    ("by", "options", "option", "complaint"),
    [
        ("pool", {"only": "acme"}, "only", "no names by pool"),
        ("day", {"top": 5}, "top", "no names by day"),
        ("client", {"top": 0}, "top", "between 1 and 100"),
        ("client", {"top": 101}, "top", "between 1 and 100"),
    ],
)
def test_one_name_or_the_largest_are_asked_for_where_there_are_names(by, options, option, complaint):
    with pytest.raises(BadQuestionError, match=complaint) as refused:
        question(by, "1d", None, None, zone="UTC", now=NOW, **options)
    assert refused.value.option == option
