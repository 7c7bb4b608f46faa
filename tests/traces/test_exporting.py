"""Spans on their way: nothing waits for a collector, and what becomes of each request is counted once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from quotapool.domain.trace import Trace
from quotapool.traces.exporting import SpanSender
from quotapool.traces.spans import SpanFacts

TRACE = Trace(11, 7, 5, 1, "a=1,b=2", 0, goes_on=False)
FACTS = [
    SpanFacts("POST /v1/embeddings", "server", 7, 5, 10, 90, {"http.route": "/v1/embeddings"}),
    SpanFacts("embeddings m", "client", 8, 7, 20, 80, {"server.port": 443}, failed=True),
]


class Exporter:
    """Answers `result`: so many messages at once, the others once it is `released`."""

    def __init__(
        self, result: SpanExportResult = SpanExportResult.SUCCESS, *, released: bool = True, at_once: int = 0
    ) -> None:
        self.result = result
        self.messages: list[int] = []
        self._at_once = at_once
        self.began = threading.Event()  # a message that waits for the release
        self.released = threading.Event()
        self.ended = False
        if released:
            self.released.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if len(self.messages) >= self._at_once:
            self.began.set()
            self.released.wait(30)
        self.messages.append(len(spans))
        return self.result

    def shutdown(self) -> None:
        self.ended = True


class Counted:
    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def __call__(self, result: str, requests: int) -> None:
        self.of[result] += requests


def spans() -> tuple[Trace, object]:
    return TRACE, lambda: FACTS


async def test_spans_arrive_as_they_are_with_their_trace():
    exporter, counted = InMemorySpanExporter(), Counted()
    sender = SpanSender(exporter, {"service.name": "pool-a"}, counted)
    sender.add(spans())
    await sender.close(10)
    server, client = exporter.get_finished_spans()
    assert (server.name, server.kind, server.start_time, server.end_time) == (
        "POST /v1/embeddings",
        SpanKind.SERVER,
        10,
        90,
    )
    assert (server.context.trace_id, server.context.span_id, server.parent.span_id) == (11, 7, 5)
    assert (server.parent.is_remote, client.parent.is_remote) == (True, False)
    assert client.parent.span_id == server.context.span_id
    assert server.context.trace_state.to_header() == "a=1,b=2"
    assert (server.status.status_code, client.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert client.attributes == {"server.port": 443}
    assert server.resource.attributes["service.name"] == "pool-a"
    assert server.resource.attributes["telemetry.sdk.language"] == "python"
    assert counted.of == {"sent": 1}


async def test_what_a_slow_collector_has_no_room_for_is_dropped_at_once_and_counted():
    exporter, counted = Exporter(released=False), Counted()
    sender = SpanSender(exporter, {}, counted, most=300)
    sender.add(spans())
    await asyncio.to_thread(exporter.began.wait, 10)  # the first is on its way
    for _ in range(1_000):
        sender.add(spans())
    assert counted.of == {"dropped": 700}
    exporter.released.set()
    await sender.close(10)
    assert counted.of == {"dropped": 700, "sent": 301}
    assert sum(exporter.messages) == 2 * 301


@pytest.mark.parametrize("answers", [True, False])
async def test_closing_waits_only_so_long_and_each_request_is_counted_once(answers):
    exporter, counted = Exporter(released=answers), Counted()
    sender = SpanSender(exporter, {}, counted)
    for _ in range(500):
        sender.add(spans())
    await sender.close(30 if answers else 0.05)
    assert exporter.ended
    sender.add(spans())
    if answers:
        assert counted.of == {"sent": 500, "dropped": 1}
    else:
        assert counted.of == {"dropped": 501}
    exporter.released.set()


async def test_a_message_that_is_on_its_way_behind_another_is_counted_when_closing():
    """The loop hears of the first message while the second is with the collector already."""
    exporter, counted = Exporter(released=False, at_once=1), Counted()
    sender = SpanSender(exporter, {}, counted)
    for _ in range(200):
        sender.add(spans())
    assert exporter.began.wait(10)  # meanwhile the loop stands still
    await asyncio.sleep(0)
    assert counted.of == {"sent": 128}
    await sender.close(0.05)
    assert counted.of == {"sent": 128, "dropped": 72}
    exporter.released.set()


async def test_what_the_collector_refuses_and_what_cannot_be_made_has_failed():
    def broken() -> list[SpanFacts]:
        raise ZeroDivisionError

    exporter, counted = Exporter(SpanExportResult.FAILURE), Counted()
    sender = SpanSender(exporter, {}, counted)
    sender.add(spans())
    await sender.close(10)
    assert counted.of == {"failed": 1}
    sender = SpanSender(exporter, {}, counted)
    sender.add((TRACE, broken))
    await sender.close(10)
    assert counted.of == {"failed": 2}
