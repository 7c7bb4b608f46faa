"""Whether a request's spans are kept, and in which trace (W3C Trace Context, https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from quotapool.domain.trace import Trace
from quotapool.openai.head import Head
from quotapool.traces.joining import Joining, onward, read_parent, read_state

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
IDS = int(TRACE, 16), int(SPAN, 16)
BROKEN = {
    "nothing": "",
    "another version's shape": f"ff-{TRACE}-{SPAN}-01",
    "too long for its version": f"00-{TRACE}-{SPAN}-01-more",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "capitals": f"00-{TRACE.upper()}-{SPAN}-01",
    "short": f"00-{TRACE[1:]}-{SPAN}-01",
    "no flags": f"00-{TRACE}-{SPAN}",
    "a line of its own behind it": f"00-{TRACE}-{SPAN}-01\n",
    "endless": f"01-{TRACE}-{SPAN}-01-" + "x" * 1_000,
}


class OfHead(Getter[dict[str, str]]):
    def get(self, carrier, key):
        return [carrier[key]] if key in carrier else None

    def keys(self, carrier):
        return list(carrier)


def head(*lines: tuple[str, str]) -> Head:
    return Head([(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in lines])


def joining(ratio: float = 0.0, *, goes_on: bool = False, seed: int = 1) -> Joining:
    return Joining(ratio, goes_on=goes_on, rng=random.Random(seed))


@pytest.mark.parametrize(
    ("written", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"cc-{TRACE}-{SPAN}-09", 9),  # a later version may have more flags
        (f"cc-{TRACE}-{SPAN}-01-what.comes.later", 1),
    ],
)
def test_a_callers_place_is_read(written, flags):
    assert read_parent(written.encode()) == (*IDS, flags)


@pytest.mark.parametrize("written", BROKEN.values(), ids=BROKEN)
def test_a_traceparent_that_breaks_the_rules_counts_as_none(written):
    assert read_parent(written.encode()) is None
    assert joining(0.0).begin(head(("traceparent", written))) is None
    begun = joining(1.0).begin(head(("traceparent", written)))
    assert begun is not None
    assert (begun.parent_id, begun.trace_id == IDS[0]) == (0, False)


@given(st.one_of(st.binary(max_size=80), st.from_regex(rb"0[01]-[0-9a-f]{30,34}-[0-9a-f]{14,18}-0[0-3](-x)?")))
def test_what_is_read_is_what_opentelemetry_itself_reads(written):
    text = written.decode("latin-1")
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text}, getter=OfHead()))
    context, ours = theirs.get_span_context(), read_parent(written.strip(b" \t"))
    if text == text.strip("\r\n\x0b\x0c") and "\n" not in text:  # which no header has
        assert (context.is_valid, context.trace_id, context.span_id) == ((True, *ours[:2]) if ours else (False, 0, 0))


def test_the_callers_flag_decides_whatever_the_ratio_is():
    kept, not_kept = head(("Traceparent", f"00-{TRACE}-{SPAN}-01")), head(("traceparent", f"00-{TRACE}-{SPAN}-00"))
    begun = joining(0.0).begin(kept)
    assert begun is not None
    assert (begun.trace_id, begun.parent_id, begun.flags) == (*IDS, 1)
    assert begun.span_id not in {0, IDS[1]}
    assert joining(1.0).begin(not_kept) is None


def test_two_traceparents_are_none():
    line = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert joining(0.0).begin(head(line, line)) is None


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.01, 70, 130)])
def test_without_a_caller_the_ratio_decides_and_each_trace_is_new(ratio, least, most):
    """Of 10,000 with 1 %, 100 are expected; the standard deviation is 10."""
    one = joining(ratio)
    begun = [trace for _ in range(10_000) if (trace := one.begin(head(("Host", "x")))) is not None]
    assert least <= len(begun) <= most
    assert len({trace.trace_id for trace in begun}) == len(begun)
    assert all(0 < trace.trace_id < 2**128 and 0 < trace.span_id < 2**64 for trace in begun)
    assert {(trace.parent_id, trace.flags, trace.state) for trace in begun} <= {(0, 3, "")}


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2 , ", "tenant@sys=x"], "a=1,b=2,tenant@sys=x"),
        ([""], ""),
        (["a=1,a=2"], ""),  # twice the same
        (["a"], ""),
        (["A=1"], ""),
        (["a=1\x00"], ""),
        (["a=\u20ac"], ""),
        (["a=1=2"], ""),
        ([",".join(f"a{n}=1" for n in range(33))], ""),
        (["a=" + "x" * 600], ""),
    ],
)
def test_tracestate_is_kept_as_it_came_or_not_at_all(lines, kept):
    assert read_state(lines) == kept
    state = [("tracestate", line) for line in lines]
    begun = joining().begin(head(("traceparent", f"00-{TRACE}-{SPAN}-01"), *state))
    assert begun is not None
    assert begun.state == kept


def test_upstream_gets_the_attempts_span_in_place_of_the_callers():
    trace = Trace(IDS[0], 7, IDS[1], 1, "a=1", 0, goes_on=True)
    sent = [(b"Traceparent", b"x"), (b"Accept", b"*/*"), (b"tracestate", b"a=1"), (b"TRACESTATE", b"b=2")]
    first, second = onward(sent, trace, 0), onward(sent, trace, 1)
    names = [(b"Accept", b"*/*"), b"traceparent", (b"tracestate", b"a=1")]
    assert [first[0], first[1][0], first[2]] == names
    assert read_parent(first[1][1]) == (IDS[0], trace.attempt_id(0), 1)
    assert read_parent(second[1][1]) == (IDS[0], trace.attempt_id(1), 1)


@given(st.integers(1, 2**64 - 1))
def test_no_two_of_a_requests_attempts_have_one_id(span_id):
    trace = Trace(1, span_id, 0, 1, "", 0, goes_on=False)
    ids = [trace.attempt_id(number) for number in range(128)]
    assert len({*ids, span_id}) == 129
    assert all(0 < one < 2**64 for one in ids)
