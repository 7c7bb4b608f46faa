"""Traces that are turned on, changed and off again while a worker runs, and its end soon after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from quotapool.app import tracing
from quotapool.app.tracing import WorkerTraces
from quotapool.domain.request_record import RequestRecord
from quotapool.openai.head import Head
from quotapool.settings import Traces


class Collector:
    """Takes spans when `released`."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait(30)
        self.spans += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


@pytest.fixture
def collectors(monkeypatch) -> list[Collector]:
    """Those that the worker has sent to, in their order. Whatever they need, the end waits for."""
    opened: list[Collector] = []

    def exporter(*_: object, **__: object) -> Collector:
        opened.append(Collector())
        return opened[-1]

    monkeypatch.setattr("quotapool.traces.tracing.otlp_exporter", exporter)
    monkeypatch.setattr(tracing, "_LAST_S", 30.0)
    return opened


class Worker:
    def __init__(self) -> None:
        self.handler = SimpleNamespace(trace=None)
        self.reporter = SimpleNamespace(traced=None, response_traced=None, traces_counted=lambda *_: None)
        self.traces = WorkerTraces("1", self.handler, self.reporter, str, SimpleNamespace())

    def configure(self, **options: object) -> None:
        traces = Traces.model_validate(options)
        settings = SimpleNamespace(traces=traces, drain_timeout=30.0, pool="default", ca_file=None, upstream="")
        self.traces.configure(settings)

    def begin(self, method: str) -> RequestRecord:
        record = RequestRecord("qp-1", 1.0, method, status=200, ended=1.1)
        begin: Callable[[Head], object] = self.handler.trace
        record.trace = begin(Head([]))
        return record

    def serve(self, method: str) -> None:
        self.reporter.traced(self.begin(method))


async def test_what_waits_for_a_collector_of_before_a_reload_is_sent_before_the_end(collectors):
    worker = Worker()
    worker.configure(endpoint="http://first.example", ratio=1)
    worker.serve("GET")
    worker.configure(endpoint="http://second.example", ratio=1)
    worker.serve("PUT")
    worker.configure()
    assert worker.handler.trace is None
    first, second = collectors
    assert (first.spans, second.spans) == ([], [])
    threading.Timer(0.05, first.released.set).start()
    threading.Timer(0.1, second.released.set).start()
    await worker.traces.close()
    assert [name.split()[0] for name in first.spans + second.spans] == ["GET", "PUT"]


async def test_a_request_that_is_under_way_when_traces_are_turned_off_is_in_them(collectors):
    worker = Worker()
    worker.configure(endpoint="http://first.example", ratio=1)
    collectors[0].released.set()
    under_way = worker.begin("GET")
    worker.configure()
    await asyncio.sleep(0)
    worker.reporter.traced(under_way)
    await worker.traces.close()
    assert [name.split()[0] for name in collectors[0].spans] == ["GET"]
