"""OpenAI's durations and rate headers are read exactly, and garbage in them does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.facts import RateHeaders
from quotapool.openai.ratelimits import parse_duration, read

from tests.fakes.heads import head


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17ms", 0.017),
        ("1s", 1.0),
        ("8.64s", 8.64),
        ("6m0s", 360.0),
        ("7m12s", 432.0),
        ("11m32.334s", 692.334),
        ("16m17.764s", 977.764),
        ("1h2m3s", 3_723.0),
        ("24h0m0s", 86_400.0),
        ("2m", 120.0),
        ("1h", 3_600.0),
        ("1d2h", 93_600.0),
        ("0s", 0.0),
        ("1.5ms", 0.0015),
        ("250µs", 0.00025),
        ("250us", 0.00025),
        ("0", None),
        ("12", None),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1.2.3s", None),
        ("nans", None),
        ("infs", None),
        ("1e5s", None),
        ("1s ", None),
        ("3s2m", None),
        ("soon", None),
        ("9" * 5_000 + "s", None),
    ],
)
def test_durations_are_gos(text, seconds):
    parsed = parse_duration(text)
    assert parsed is None if seconds is None else parsed == pytest.approx(seconds)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59_999))
def test_any_duration_go_prints_is_read_back(hours, minutes, milliseconds):
    text = f"{hours}h{minutes}m{milliseconds / 1000:.3f}s"
    assert parse_duration(text) == pytest.approx(hours * 3_600 + minutes * 60 + milliseconds / 1000)


def test_all_nine_headers_are_read_whatever_their_case():
    headers = head(
        {
            "X-RateLimit-Limit-Requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
            "x-ratelimit-limit-project-tokens": "60000",
            "x-ratelimit-remaining-project-tokens": "57000",
            "x-ratelimit-reset-project-tokens": "3s",
        }
    )
    assert read(headers) == RateHeaders(60, 59, 1.0, 150_000, 149_984, 60_000, 57_000)


def test_an_answer_without_rate_headers_says_nothing():
    assert read(head({"content-type": "application/json"})) is None


def test_a_missing_part_is_none_and_the_rest_is_still_read():
    assert read(head({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "180ms"})) == RateHeaders(
        limit_requests=60, reset_requests_s=0.18
    )


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_garbage_never_raises_and_never_gives_a_negative_number(limit, remaining, reset):
    found = read(
        head(
            {
                "x-ratelimit-limit-requests": limit,
                "x-ratelimit-remaining-requests": remaining,
                "x-ratelimit-reset-requests": reset,
            }
        )
    )
    assert found is not None
    numbers = (found.limit_requests, found.remaining_requests, found.reset_requests_s)
    assert all(number is None or number >= 0 for number in numbers)
    assert found.requests_are_daily in {True, False, None}


@pytest.mark.parametrize("bad", ["-1", "1.5", "many", "9" * 30, "9" * 10_000])
def test_an_unreadable_count_is_absent(bad):
    found = read(head({"x-ratelimit-limit-requests": bad}))
    assert found is not None
    assert found.limit_requests is None


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "daily"),
    [
        # Captures of real answers.
        (200, 198, "11m32.334s", True),  # 432 s a request: 2 used, one of them partly refilled
        (5_000, 4_998, "22ms", False),  # 2/5000 of a minute is 24 ms
        (3_500, 3_499, "17ms", False),
        (10_000, 9_999, "6ms", False),
        (60, 59, "1s", False),
        (10_000, 9_999, "8.64s", True),  # 1/10000 of a day
        # By hand.
        (200, 0, "24h0m0s", True),
        (3, 0, "1m0s", False),
        (200, 200, "0s", None),  # a full bucket tells nothing
        (0, 0, "1s", None),
        (1_000, 500, "5m0s", None),  # half a minute's bucket refills in 30 s, half a day's in 12 h
    ],
)
def test_the_reset_distinguishes_a_daily_bucket_from_a_minutes_one(limit, remaining, reset, daily):
    found = RateHeaders(limit_requests=limit, remaining_requests=remaining, reset_requests_s=parse_duration(reset))
    assert found.requests_are_daily is daily
