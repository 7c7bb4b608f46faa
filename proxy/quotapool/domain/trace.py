"""The place of one request in a trace, as W3C Trace Context (https://www.w3.org/TR/trace-context/) describes it.

Only requests whose spans are kept have one: what is not sampled carries nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

SAMPLED: Final = 1  # a flag: the caller keeps its spans
RANDOM: Final = 2  # a flag: the trace's id is random
_IDS: Final = 2**64 - 1  # 0 is none
_STEP: Final = 0x9E3779B97F4A7C15  # it has but the divisor 5 in common with these, so each number gives another id


class Trace(msgspec.Struct, eq=False, gc=False):
    """`trace_id` has 128 bits, `span_id` and `parent_id` have 64. `span_id`: of the request's own span, the parent of
    all others. `parent_id`: the caller's span; 0: there is no caller. `state`: its `tracestate`, checked.

    `clock_ns`: to be added to the monotonic clock for Unix time, in nanoseconds. `goes_on`: upstream is told of it.
    """

    trace_id: int
    span_id: int
    parent_id: int
    flags: int
    state: str
    clock_ns: int
    goes_on: bool

    def attempt_id(self, number: int) -> int:
        """The span of the attempt with this number (from 0): known before it is sent, and not kept anywhere."""
        return (self.span_id - 1 + (number + 1) * _STEP) % _IDS + 1

    def parent_of(self, span_id: int) -> bytes:
        """`traceparent` for what this span calls."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, span_id, self.flags)
