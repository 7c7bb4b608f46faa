"""How one attempt ended: what was passed on, what is held back, what is known of it."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.verdict import OK, Verdict
from quotapool.ledger.grants import Observed
from quotapool.openai.head import Header
from quotapool.upstream.interface import UpstreamFailure

UNSEEN: Final = Usage(Certainty.AT_LEAST)


class Held(msgspec.Struct):
    """An upstream error, read but not passed on yet: the client's answer if no other attempt does better."""

    status: int
    reason: str
    headers: list[Header]
    body: bytes


class Outcome(msgspec.Struct, eq=False):
    """How one attempt ended. What stays unknown remains charged: `usage` is AT_LEAST nothing until it is counted."""

    observed: list[Observed] | None = None  # its rate headers; None: none came, or they were passed on at once
    verdict: Verdict = OK
    failure: UpstreamFailure | None = None
    report: asyncio.Task[None] | None = None  # a verdict on its way to the store
    delivered: bool = False  # the client has its answer, or as much of it as there was
    held: Held | None = None
    usage: Usage = UNSEEN
    cool_s: float = 0.0


class Passed(msgspec.Struct, eq=False):
    """What became of an answer. `error`: an error event found while the client still had nothing. `final`: the JSON
    with all of it, whole or as a stream's last event; b"" if there was none."""

    usage: Usage = UNSEEN
    complete: bool = False
    error: bytes | None = None
    late_error: bytes | None = None
    final: bytes = b""
