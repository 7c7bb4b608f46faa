"""A rate limit's answer shows which limit was hit, how large it is, and how long to wait.

Messages are as quoted in public captures, with ids shortened.
"""

from __future__ import annotations

import json

import pytest
from quotapool.domain.verdict import Kind
from quotapool.openai.classify import classify

from tests.fakes.heads import head


def body(message, type_, code) -> bytes:
    return json.dumps({"error": {"message": message, "type": type_, "param": None, "code": code}}).encode()


RPD = (
    "Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, "
    "Requested 1. Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
TPM = (
    "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Used 8554, "
    "Requested 3082. Please try again in 9.816s. Visit https://platform.openai.com/account/rate-limits."
)
TOO_LARGE = (
    "Request too large for gpt-4.1-2025-04-14 (for limit gpt-4.1) in organization org-x on tokens per min (TPM): "
    "Limit 30000, Requested 37313. The input or output tokens must be reduced in order to run successfully."
)
IPM = "Rate limit exceeded for images per minute in organization org-x. Limit: 0/1min. Current: 1/1min."
TPD = (
    "Rate limit reached for o3 in organization org-x on tokens per day (TPD): Limit 1,000,000, Used 999,999, "
    "Requested 20. Please try again in 1h2m3s."
)
NEVER_FITS = (
    "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Used 0, "
    "Requested 12000. Please try again in 12s."
)
SHARED = (
    "Rate limit reached for m (for limit 4) on tokens per min (TPM): Limit 50, Used 49, Requested 2. "
    "Please try again in 250ms."
)
RPM_2023 = (
    "Rate limit reached for default-gpt-3.5-turbo in organization org-x on requests per min. Limit: 3 / min. "
    "Please try again in 20s. Contact us through our help center."
)


LIMITS = [
    (RPD, "requests", (Kind.WAIT, "requests", True, 200, 432.0, "")),
    (TPM, "tokens", (Kind.WAIT, "tokens", False, 10_000, 9.816, "")),
    ("Request too large for gpt-4.", "tokens", (Kind.TOO_LARGE, "tokens", False, None, None, "")),
    (TOO_LARGE, "tokens", (Kind.TOO_LARGE, "tokens", False, 30_000, None, "gpt-4.1")),
    (IPM, "images", (Kind.WAIT, "images", False, 0, None, "")),
    (RPM_2023, "requests", (Kind.WAIT, "requests", False, 3, 20.0, "")),
    (
        "You've exceeded the rate limit, please slow down and try again after 51.84 seconds.",
        "images",
        (Kind.WAIT, "images", False, None, 51.84, ""),
    ),
    (
        TPD,
        "tokens",
        (Kind.WAIT, "tokens", True, 1_000_000, 3_723.0, ""),
    ),
    # The limit is smaller than the request, so no wait can help, however it is worded.
    (
        NEVER_FITS,
        "tokens",
        (Kind.TOO_LARGE, "tokens", False, 10_000, None, ""),
    ),
    (
        SHARED,
        "tokens",
        (Kind.WAIT, "tokens", False, 50, 0.25, "4"),
    ),
    ("Slower.", "tokens", (Kind.WAIT, "tokens", False, None, None, "")),
]


@pytest.mark.parametrize(("message", "type_", "expected"), LIMITS)
@pytest.mark.parametrize("code", ["rate_limit_exceeded", None])
def test_a_rate_limit_shows_what_was_hit_and_for_how_long(message, type_, expected, code):
    v = classify(429, head(), body(message, type_, code))
    assert (v.kind, v.dimension, v.daily, v.limit, v.retry_after_s, v.shared_group) == expected


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "56"}, 56.0),
        ({"retry-after": "56", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "0", "retry-after": "12"}, 12.0),
        # A date is read against the answer's own clock (RFC 9110 §10.2.3).
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:15 GMT"}, 45.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 9.816),  # without one the message is used
        ({"retry-after": "-1"}, 9.816),
        ({"retry-after": "nan"}, 9.816),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({}, 9.816),
    ],
)
def test_the_wait_is_in_the_header_or_else_in_the_message(headers, seconds):
    found = classify(429, head(headers), body(TPM, "tokens", "rate_limit_exceeded"))
    assert found.retry_after_s == pytest.approx(seconds)
    shouted = head({name.title(): value for name, value in headers.items()})
    assert classify(429, shouted, body(TPM, "tokens", "rate_limit_exceeded")) == found


def test_an_overloaded_openai_says_when_to_come_back():
    verdict = classify(503, head({"retry-after": "7"}), body("", "service_unavailable_error", "server_is_overloaded"))
    assert verdict.retry_after_s == 7.0
