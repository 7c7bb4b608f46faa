"""Reads OpenAI's `x-ratelimit-*` headers and its durations.

OpenAI's buckets refill continuously, and `reset` is the time until the bucket is full, not until the next
free slot: 5000/4998 answers `22ms`, which is 2/5000 of a minute (openai/openai-python#416).
"""

from __future__ import annotations

import re
from typing import Final

from quotapool.openai.facts import RateHeaders
from quotapool.openai.head import Head

_LARGEST: Final = 10**15  # no real limit; larger numbers are garbage

# Go's time.Duration.String(): 17ms, 1s, 8.64s, 6m0s, 1h2m3s; days for good measure.
_GO_DURATION: Final = re.compile(
    r"(?=\d)(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,9})m(?!s))?"
    r"(?:(\d{1,12}(?:\.\d{1,12})?)(s|ms|[uµμ]s|ns))?",
    re.ASCII,
)
_UNIT_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> float | None:
    """Seconds of a Go-style duration such as `6m0s`, `17ms`, `1h2m3s`; None if it is not one."""
    if text[-2:] == "ms" and text[:-2].isdecimal() and len(text) < 12:
        return int(text[:-2]) / 1000  # most answers of a well-filled bucket, in a third of the time
    match = _GO_DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, rest, unit = match.groups()
    seconds = float(rest) * _UNIT_S[unit] if rest else 0.0
    if minutes:
        seconds += int(minutes) * 60
    if hours:
        seconds += int(hours) * 3_600
    if days:
        seconds += int(days) * 86_400
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: `17ms`, `8.64s`, `6m0s`, `1h2m3s`."""
    millis = max(0, round(seconds * 1000))
    if millis < 1000:
        return f"{millis}ms"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{millis / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + text


def read(headers: Head) -> RateHeaders | None:
    """The rate headers of one answer, or None if it has none. Garbage counts as absent; never raises."""
    get = headers.first.get
    limit_requests = get("x-ratelimit-limit-requests")
    limit_tokens = get("x-ratelimit-limit-tokens")
    remaining_requests = get("x-ratelimit-remaining-requests")
    remaining_tokens = get("x-ratelimit-remaining-tokens")
    limit_project = get("x-ratelimit-limit-project-tokens")
    if (
        limit_requests is None
        and limit_tokens is None
        and remaining_requests is None
        and remaining_tokens is None
        and limit_project is None
    ):
        return None
    reset_requests = get("x-ratelimit-reset-requests")
    return RateHeaders(
        _count(limit_requests),
        _count(remaining_requests),
        None if reset_requests is None else parse_duration(reset_requests.decode("utf-8", "surrogateescape")),
        _count(limit_tokens),
        _count(remaining_tokens),
        _count(limit_project),
        None if limit_project is None else _count(get("x-ratelimit-remaining-project-tokens")),
    )


def _count(text: bytes | None) -> int | None:
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number <= _LARGEST else None
