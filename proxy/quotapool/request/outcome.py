"""How one attempt upstream ended, and what that means for the reservation that it used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quotapool.domain.quantities import Cost, Dimension, Usage
from quotapool.domain.verdict import OK, Kind, Verdict
from quotapool.ledger.grants import Event, Observed
from quotapool.openai import ratelimits, replies
from quotapool.openai.headers import Header
from quotapool.request.relay import UNSEEN
from quotapool.upstream.interface import UpstreamFailure


@dataclass(slots=True)
class Held:
    """An upstream error, read but not passed on yet: the client's answer if no other attempt does better."""

    status: int
    reason: str
    headers: list[Header]
    body: bytes


@dataclass(slots=True)
class Outcome:
    """How one attempt ended. What stays unknown remains charged: `usage` is AT_LEAST nothing until it is counted."""

    observed: list[Observed] | None = None  # its rate headers; None: none came, or they were passed on at once
    verdict: Verdict = OK
    failure: UpstreamFailure | None = None
    report: asyncio.Task[None] | None = None  # a verdict on its way to the store
    delivered: bool = False  # the client has its answer, or as much of it as there was
    held: Held | None = None
    usage: Usage = UNSEEN
    cool_s: float = 0.0


# No work was done upstream: the tokens go back, the request itself counts ("unsuccessful requests contribute to your
# per-minute limit", OpenAI's rate limit guide).
DID_NO_WORK: Final = frozenset(Kind) - {Kind.OK, Kind.SERVICE}
# Refused at the door. What the caller did wrong (400, 404) may have been charged: only usage says it was not.
NOT_CHARGED: Final = DID_NO_WORK - {Kind.REQUEST, Kind.STATE}


def is_page(verdict: Verdict) -> bool:
    """Something on the way answered instead of the API: its page would tell a client nothing."""
    return verdict.kind is Kind.EGRESS and verdict.reason.startswith("http_")


# Errors under HTTP 200 become what the same error is outside a stream.
_STATUS_OF: Final = {
    Kind.WAIT: 429,
    Kind.SLOW_DOWN: 429,
    Kind.TOO_LARGE: 429,
    Kind.REQUEST: 400,
    Kind.STATE: 400,
    Kind.MODEL: 404,
    Kind.SERVICE: 503,
}


def held_event(verdict: Verdict, headers: list[Header]) -> Held:
    """A stream that began with an error, as the same error is shown outside a stream."""
    status = _STATUS_OF.get(verdict.kind, 500)
    kind = "server_error" if status >= 500 else verdict.dimension or "invalid_request_error"
    kept = [(name, value) for name, value in headers if name.lower() not in {"content-type", "x-quotapool-source"}]
    body = replies.error_body(verdict.message or "The stream began with an error.", kind, verdict.reason)
    return Held(status, "", [*kept, ("content-type", "application/json")], body)


def observed_in(headers: Mapping[str, str]) -> list[Observed]:
    """What the rate headers show, as the ledger compares it."""
    rates = ratelimits.read(headers)
    seen: list[Observed] = []
    if rates is None:
        return seen
    if rates.limit_requests is not None and rates.remaining_requests is not None:
        dimension = Dimension.RPD if rates.requests_are_daily else Dimension.RPM
        seen.append(Observed(dimension, rates.limit_requests, rates.remaining_requests))
    if rates.limit_tokens is not None and rates.remaining_tokens is not None:
        seen.append(Observed(Dimension.TPM, rates.limit_tokens, rates.remaining_tokens))
    if rates.limit_project_tokens is not None and rates.remaining_project_tokens is not None:
        seen.append(Observed(Dimension.PROJECT_TPM, rates.limit_project_tokens, rates.remaining_project_tokens))
    return seen


def event_of(outcome: Outcome, cost: Cost, status: int) -> Event:
    """What else the answer taught about the account."""
    verdict, observed = outcome.verdict, outcome.observed
    if verdict.kind is Kind.SLOW_DOWN:
        return Event.SLOW_DOWN
    if verdict.kind is Kind.WAIT and not verdict.daily and observed:
        # Refused although a minute's worth is left: it enforces a shorter span, 60 a minute as one a second, say.
        enough = all(o.remaining >= cost.of(o.dimension) for o in observed if o.dimension is not Dimension.RPD)
        return Event.SHORTER_SPAN if enough else Event.NOTHING
    if verdict.kind is Kind.OK and 200 <= status < 300 and observed is not None and not observed:
        return Event.HEADERLESS
    return Event.NOTHING
