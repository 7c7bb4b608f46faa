"""Traces on the request path and the session path: what the record carries, and what upstream is told."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

import pytest
from quotapool.traces.joining import Joining, read_parent
from quotapool.traces.spans import SpanMaker

from tests.fakes.sessions import TEXT, Hall, open_sessions
from tests.fakes.wire import Wire, open_wire, parse_head, post

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "vendor=opaque"
CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}).encode()


@pytest.fixture
async def wire(valkey_url) -> AsyncIterator[Wire]:
    async with open_wire(valkey_url) as opened:
        yield opened


@pytest.fixture
async def hall(valkey_url) -> AsyncIterator[Hall]:
    async with open_sessions(valkey_url, {"a": 1}) as opened:
        yield opened


def joining(*, goes_on: bool) -> Joining:
    return Joining(0.0, goes_on=goes_on, rng=random.Random(1))


def fields_of(request: bytes) -> list[tuple[str, str]]:
    return [
        pair for pair in parse_head(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")[1] if "trace" in pair[0].lower()
    ]


async def test_without_traces_and_by_default_the_callers_trace_passes_as_it_came(wire):
    for trace in (None, joining(goes_on=False).begin):
        wire.handler.trace = trace
        await wire.ask(post(CHAT, f"TraceParent: {CALLER}", f"tracestate: {STATE}"))
        assert fields_of(wire.upstream.requests[-1]) == [("TraceParent", CALLER), ("tracestate", STATE)]
    assert [record.trace is None for record in wire.ends.trips] == [True, False]


async def test_if_it_goes_on_upstream_is_called_by_the_attempt(wire):
    wire.handler.trace = joining(goes_on=True).begin
    await wire.ask(post(CHAT, f"traceparent: {CALLER}", f"tracestate: {STATE}"))
    ((name, parent), state) = fields_of(wire.upstream.requests[-1])
    trace = wire.ends.trips[-1].trace
    assert trace is not None
    assert (name, state) == ("traceparent", ("tracestate", STATE))
    assert read_parent(parent.encode()) == (trace.trace_id, trace.attempt_id(0), 1)
    await wire.ask(post(CHAT, f"traceparent: {CALLER[:-1]}0"))  # not kept: it passes
    assert fields_of(wire.upstream.requests[-1]) == [("traceparent", f"{CALLER[:-1]}0")]


async def test_the_record_has_what_spans_are_made_of(wire):
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body := json.dumps(chat_answer_body()).encode()
    )
    wire.upstream.answer += body
    wire.handler.trace = joining(goes_on=False).begin
    await wire.ask(post(CHAT, f"traceparent: {CALLER}"))
    record = wire.ends.trips[-1]
    (attempt,) = record.attempts
    assert record.path == "chat/completions"
    assert attempt.model == "gpt-4o-2024-08-06"
    assert record.started <= record.asked == attempt.asked <= attempt.began <= record.first_byte <= record.ended


def chat_answer_body() -> dict[str, object]:
    return {
        "object": "chat.completion",
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


async def test_a_sessions_trace_goes_on_too_and_each_response_belongs_to_it(hall):
    hall.handler.trace = joining(goes_on=True).begin
    client, upstream = await hall.pair("/v1/realtime?model=gpt-realtime", f"traceparent: {CALLER}")
    done = {"type": "response.done", "response": {"id": "r", "status": "completed", "usage": USAGE}}
    await upstream.send(TEXT, json.dumps(done).encode())
    await client.receive()
    await hall.settled()
    await hall.over_with(client, upstream)
    record = hall.ends.trips[-1]
    (response,) = hall.house.recorder.responses
    assert record.path == "realtime"
    parent = read_parent(upstream.field("traceparent").encode())
    assert parent == (record.trace.trace_id, record.trace.attempt_id(0), 1)
    maker = SpanMaker(word=str, upstream_of=lambda _: "https://api.openai.com", new_id=lambda: 1)
    (span,) = maker.response(response, response.trace)
    assert (span.name, span.parent_id) == ("chat gpt-realtime", record.trace.span_id)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5


USAGE = {"total_tokens": 9, "input_tokens": 5, "output_tokens": 4}
