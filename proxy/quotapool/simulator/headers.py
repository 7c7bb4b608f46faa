"""The headers OpenAI puts on its answers: rate limits with Go durations, identity, Cloudflare's cookie."""

from __future__ import annotations

from collections.abc import Iterable

from quotapool.simulator.buckets import Gauge


def go_duration(milliseconds: int) -> str:
    """A duration as Go prints it and OpenAI sends it: 17ms, 1s, 8.64s, 6m0s, 11m32.334s, 1h0m0s."""
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(whole, 60)
    fraction = f".{rest:03d}".rstrip("0") if rest else ""
    if whole < 60:
        return f"{seconds}{fraction}s"
    if whole < 3600:
        return f"{minutes}m{seconds}{fraction}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}{fraction}s"


def rate_limit_headers(gauges: Iterable[Gauge]) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, for the dimensions that are limited."""
    headers: dict[str, str] = {}
    for gauge in gauges:
        headers[f"x-ratelimit-limit-{gauge.kind}"] = str(gauge.limit)
        headers[f"x-ratelimit-remaining-{gauge.kind}"] = str(gauge.remaining)
        headers[f"x-ratelimit-reset-{gauge.kind}"] = go_duration(round(gauge.reset_s * 1000))
    return headers


def identity_headers(request_id: str, organization: str | None, processing_ms: int) -> dict[str, str]:
    """The headers of every answer; for a refused key there is no organisation."""
    headers = {
        "x-request-id": request_id,
        "openai-version": "2020-10-01",
        "openai-processing-ms": str(processing_ms),
        "Server": "cloudflare",
        "cf-ray": request_id[-16:] + "-SIM",
        "Set-Cookie": f"__cf_bm={request_id}; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None",
    }
    if organization is not None:
        headers["openai-organization"] = organization
    return headers
