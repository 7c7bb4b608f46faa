"""Whether a request's spans are kept, and in which trace: decided once, when it comes in.

A caller that sends `traceparent` has decided for its whole trace: a request that it keeps is kept here, as a part of
the same trace, and one that it does not keep is not. For all others `ratio` decides, and each kept one begins a trace.
A `traceparent` that breaks the rules is as none (W3C Trace Context, "Processing Model").
"""

from __future__ import annotations

import random
import re
import time
from typing import Final

from quotapool.domain.trace import RANDOM, SAMPLED, Trace
from quotapool.openai.head import Head, Header

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]*)?")
_LENGTH: Final = 55  # bytes, in version 00
_LONGEST: Final = 512  # bytes of either header; the recommendation's bound for `tracestate`
_MOST_MEMBERS: Final = 32
_MEMBER: Final = re.compile(r"(?:[a-z0-9][a-z0-9_*/@-]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[!-+\x2d-<>-~]")
_OURS: Final = frozenset({b"traceparent", b"tracestate"})


class Joining:
    """`ratio`: of the requests without a caller's trace, 0 to 1. `goes_on`: upstream gets the attempt's span as its
    parent; else what the client sent passes on."""

    def __init__(self, ratio: float, *, goes_on: bool, rng: random.Random | None = None) -> None:
        self._ratio = ratio
        self._goes_on = goes_on
        self._rng = rng or random.Random()

    def begin(self, head: Head) -> Trace | None:
        """The trace of the request with this head; None: its spans are not kept."""
        caller = None
        if "traceparent" in head.first and not head.is_repeated("traceparent"):
            caller = read_parent(head.first["traceparent"])
        if caller is None:
            if self._rng.random() >= self._ratio:
                return None
            trace_id, parent_id, flags, state = self._rng.getrandbits(128) or 1, 0, SAMPLED | RANDOM, ""
        else:
            trace_id, parent_id, flags = caller
            if not flags & SAMPLED:
                return None
            flags &= SAMPLED | RANDOM
            state = read_state(head.getall("tracestate")) if "tracestate" in head.first else ""
        clock_ns = time.time_ns() - time.monotonic_ns()
        return Trace(trace_id, self._rng.getrandbits(64) or 1, parent_id, flags, state, clock_ns, self._goes_on)


def read_parent(raw: bytes) -> tuple[int, int, int] | None:
    """(trace id, span id, flags) of a `traceparent`; None if it breaks the rules."""
    found = _PARENT.fullmatch(raw) if len(raw) <= _LONGEST else None
    if found is None or found[1] == b"ff" or (found[1] == b"00" and len(raw) != _LENGTH):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return (trace_id, span_id, int(found[4], 16)) if trace_id and span_id else None


def read_state(lines: list[str]) -> str:
    """`tracestate`, its lines joined; "" if it breaks the rules, which leaves `traceparent` valid."""
    joined = ",".join(lines)
    members = [member.strip(" \t") for member in joined.split(",")]
    members = [member for member in members if member]
    names = {member.partition("=")[0] for member in members}
    if len(joined) > _LONGEST or len(members) > _MOST_MEMBERS or len(names) != len(members):
        return ""
    return ",".join(members) if all(_MEMBER.fullmatch(member) for member in members) else ""


def onward(headers: list[Header], trace: Trace, attempt: int) -> list[Header]:
    """The headers for upstream, with the span of this attempt (its number, from 0) in place of the client's."""
    kept = [line for line in headers if line[0].lower() not in _OURS]
    kept.append((b"traceparent", trace.parent_of(trace.attempt_id(attempt))))
    if trace.state:
        kept.append((b"tracestate", trace.state.encode()))
    return kept
