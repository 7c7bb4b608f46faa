"""Demand from our own log: its JSON lines of requests (`observe/request_line.py`), whatever else is among them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from quotapool.domain.request_record import AskedFor
from quotapool.openai.jsontext import BROKEN
from quotapool.plan.sources.record import MOST_COUNT, MOST_USD, Collector, Known, pico_of
from quotapool.plan.sources.ring import OLD, demand, use

_MARK: Final = b'"event":"request"'
_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]
_Usd = Annotated[float, msgspec.Meta(ge=0, le=MOST_USD)]


class _Attempt(msgspec.Struct):
    ms: float = 0.0


class _Tokens(msgspec.Struct):
    prompt: _Count = 0
    completion: _Count = 0
    certainty: str = ""


class _Asked(msgspec.Struct):
    tokens: _Count = 0
    max_wait_s: float = float("inf")
    group: str = ""
    images: _Count = 0
    priority: int = 0
    only: str = ""


class _Line(msgspec.Struct):
    ts: datetime
    client: str = ""
    model: str = ""
    status: int = 0
    code: str = ""
    source: str = ""
    attempts: list[_Attempt] = []
    tokens: _Tokens | None = None
    queue_ms: float = 0.0
    total_ms: float = 0.0
    asked_for: _Asked | None = None
    usd: _Usd | msgspec.UnsetType | None = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_Line).decode


def is_line(line: bytes) -> bool:
    """Whether it looks like a request's line of ours."""
    return _MARK in line.replace(b": ", b":")


def take(line: bytes, known: Known, into: Collector) -> None:
    """One line of a log, whatever it is. What stands before its JSON, as container engines put it, is passed over."""
    if not is_line(line):
        return  # another event
    try:
        found = _decode(line[line.find(b"{") :])
    except BROKEN:
        into.leave_out("unreadable")
        return
    if found.source == "cache":
        into.leave_out("answered by the cache")
        return
    used = found.tokens or _Tokens()
    tokens = used.prompt + used.completion
    if found.asked_for is not None:
        one = found.asked_for
        asked = AskedFor(one.group, one.tokens, one.images, one.priority, one.max_wait_s, one.only)
    elif not found.attempts or not found.model or found.status == 101:
        into.leave_out("refused before they asked for room, or in need of none")
        return
    else:
        into.assume(OLD)
        asked = AskedFor("", tokens, max_wait_s=float("inf"))
    served, charged = use(found.status, found.source, used.certainty, tokens, asked)
    pico = None
    if served:
        if isinstance(found.usd, float):
            pico = pico_of(found.usd) or 0
        elif found.usd is not None:
            pico = known.price(found.model, used.prompt, 0, used.completion) if tokens else 0
    took_s = found.attempts[-1].ms / 1000 if found.attempts else 0.0
    at = found.ts.timestamp() - found.total_ms / 1000
    into.add(
        demand(asked, known, into, at, found.client, found.model, charged, took_s, pico),
        wait_s=found.queue_ms / 1000,
        code="" if served else found.code or str(found.status),
    )
