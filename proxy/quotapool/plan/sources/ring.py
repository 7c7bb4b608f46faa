"""Demand from the pool's last requests, which the store keeps (`observe/request_store.py`)."""

from __future__ import annotations

from typing import Final

from quotapool.domain.request_record import AskedFor
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources.record import Collector, Known, Record, SourceError

ANONYMOUS: Final = "anonymous"
OLD: Final = "requests that an older version kept have no estimate; what they used is taken for it"
_UNSERVED: Final = 429


async def read_ring(store: RequestStore, known: Known, into: Collector, *, kept: int) -> Record:
    """All of it that is in the span of `into`. `kept`: how many requests it keeps. Raises StoreLost, SourceError."""
    if not kept:
        raise SourceError("no requests are kept (requests_kept: 0); --from usage")
    total = 0
    async for requests in store.newest_first():
        total += len(requests)
        for request in requests:
            take(request, known, into)
        if requests and max(request.ended for request in requests) < into.since - _OVERLAP_S:
            break
    if total >= kept:
        into.assume(f"the ring keeps the last {kept:,} requests (requests_kept); --from usage goes back further")
    return into.record("The ring")


_OVERLAP_S: Final = 3_600.0  # a request that arrived late may have ended early; few last longer


def take(request: KeptRequest, known: Known, into: Collector) -> None:
    asked = request.asked_for
    if request.source == "cache":
        into.leave_out("answered by the cache")
        return
    if asked is None:
        if not request.attempts or not request.model or request.status == 101:
            into.leave_out("refused before they asked for room, or in need of none")
            return
        into.assume(OLD)
        asked = AskedFor("", request.prompt + request.completion, max_wait_s=float("inf"))
    attempts = request.attempts
    took_s = attempts[-1].took_us / 1e6 if attempts else 0.0
    served, tokens = use(request.status, request.source, request.certainty, request.prompt + request.completion, asked)
    pico = request.pico if served else None
    into.add(
        demand(asked, known, into, request.at, request.client, request.model, tokens, took_s, pico),
        wait_s=request.queued_us / 1e6,
        code="" if served else request.code or str(request.status),
    )


def use(status: int, source: str, certainty: str, used: int, asked: AskedFor) -> tuple[bool, int]:
    """Whether upstream worked for it, and the tokens that stay charged for that. What was seen of a cut answer may be
    less than what it was, so its estimate stays."""
    if certainty == "exact":
        return True, used
    if certainty == "at_least":
        return True, max(asked.tokens, used)
    if source == "upstream" and status < 500 and status != _UNSERVED:
        return True, 0  # its own mistake: it counts as a request, and nothing else
    return False, UNSEEN


def demand(
    asked: AskedFor,
    known: Known,
    into: Collector,
    at: float,
    client: str,
    model: str,
    tokens: int,
    took_s: float,
    pico: int | None,
) -> Demand:
    client = "" if client == ANONYMOUS else into.name(client)
    group = into.name(asked.group or known.group_of(model))
    patience_s = asked.max_wait_s if asked.max_wait_s < known.patience_of(client) else None
    name = into.name(model)
    return Demand(
        at,
        client,
        name,
        "" if group == name else group,
        asked.tokens,
        tokens,
        asked.images,
        took_s,
        pico,
        asked.priority,
        patience_s,
        into.name(asked.only) if asked.only else "",
    )
