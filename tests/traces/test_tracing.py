"""Which requests get into the traces of this process."""

from __future__ import annotations

import random

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from quotapool.domain.request_record import RequestRecord
from quotapool.openai.head import Head
from quotapool.traces.exporting import SpanSender
from quotapool.traces.joining import Joining
from quotapool.traces.spans import SpanMaker
from quotapool.traces.tracing import Tracing

CALLER = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]


def record_of(tracing: Tracing, lines: list[tuple[bytes, bytes]], **members: object) -> RequestRecord:
    record = RequestRecord("qp-1", 1.0, "POST", status=401, ended=1.1)
    for name, value in members.items():
        setattr(record, name, value)
    record.trace = tracing.begin(Head(lines))
    assert record.trace is not None
    return record


async def test_a_stranger_joins_no_trace_and_the_ratio_counts_strangers_too():
    exporter = InMemorySpanExporter()
    maker = SpanMaker(word=str, upstream_of=str, new_id=lambda: random.getrandbits(64) or 1)
    tracing = Tracing(Joining(1.0, goes_on=False), maker, SpanSender(exporter, {}, lambda *_: None))
    stranger, own = record_of(tracing, CALLER), record_of(tracing, [])
    known = record_of(tracing, CALLER, client="app", status=404)
    unknown_but_allowed = record_of(tracing, CALLER, endpoint="chat", status=200)
    for record in (stranger, own, known, unknown_but_allowed):
        tracing.ended(record)
    await tracing.close(10)
    assert stranger.trace is None  # nor does its log line name one
    kept = [span.context.span_id for span in exporter.get_finished_spans()]
    assert kept == [record.trace.span_id for record in (own, known, unknown_but_allowed)]
