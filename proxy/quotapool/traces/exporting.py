"""Spans on their way to a collector: from a bounded queue, in a thread of their own, by OpenTelemetry's exporter.

The event loop only appends what has ended. Spans are made, encoded and sent in the thread; a collector that is slow or
away fills the queue, and then requests go without their spans, which are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from quotapool import __version__
from quotapool.domain.trace import Trace
from quotapool.traces.answers import Answers
from quotapool.traces.spans import SpanFacts

_log = structlog.get_logger()
MOST_WAITING: Final = 2048  # requests
_MOST_AT_ONCE: Final = 128  # requests in one message to the collector
_EVERY_S: Final = 1.0
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SCOPE: Final = InstrumentationScope("quotapool", __version__)
_FAILED, _UNSET = Status(StatusCode.ERROR), Status(StatusCode.UNSET)

Spans = tuple[Trace, Callable[[], Sequence[SpanFacts]]]
"""Of one request or response: its trace, and what makes the spans, called in the thread."""


class Exporter(Protocol):
    """What is used of OpenTelemetry's `SpanExporter`."""

    def export(self, spans: Sequence[ReadableSpan], /) -> SpanExportResult: ...

    def shutdown(self) -> None: ...


def otlp_exporter(
    endpoint: str, headers: Mapping[str, str], answers: Answers, *, ca_file: str | None, timeout_s: float, gzip: bool
) -> Exporter:
    """OTLP over HTTP, protobuf; `answers` hears what the collector answers. Certificates are checked against `ca_file`,
    else the system's, as those of upstream."""
    _LastWords.listen()
    session = requests.Session()
    session.trust_env = False  # a ~/.netrc would replace the authorization of `headers`
    session.stream = True  # no more of an answer is read than `hear` reads, and nothing of it is unpacked
    session.headers["Accept-Encoding"] = "identity"
    session.hooks["response"].append(answers.hear)
    system = ssl.get_default_verify_paths()
    return OTLPSpanExporter(
        endpoint,
        certificate_file=ca_file or system.cafile or system.capath,
        headers=headers,
        timeout=timeout_s,
        compression=Compression.Gzip if gzip else Compression.NoCompression,
        session=session,
    )


class SpanSender:
    """`attributes`: of the process. `counted` hears of (sent, failed or dropped; how many requests), on the event loop.
    `answers`: what the exporter hears from the collector.

    Built on the event loop; `add` there, too. `close` at the end."""

    def __init__(
        self,
        exporter: Exporter,
        attributes: Mapping[str, str],
        counted: Callable[[str, int], None],
        *,
        answers: Answers | None = None,
        most: int = MOST_WAITING,
    ) -> None:
        self._exporter = exporter
        self._answers = answers or Answers()
        self._resource = Resource.create(dict(attributes))
        self._counted = counted
        self._most = most
        self._waiting: deque[Spans] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._stopping = self._closed = False
        self._open = 0  # requests that were taken and not counted yet; only the loop touches it
        self._finished = asyncio.Event()
        self._away = False
        # Daemon: a collector that does not answer cannot hold up the process's end.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def add(self, spans: Spans) -> None:
        if self._stopping or len(self._waiting) >= self._most:
            self._counted("dropped", 1)
            return
        self._open += 1
        self._waiting.append(spans)
        if len(self._waiting) == _MOST_AT_ONCE:
            self._wake.set()

    async def close(self, seconds: float) -> None:
        """Send what waits, within so many seconds; the rest is dropped, and counted."""
        self._stopping = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finished.wait()
        self._closed = True
        self._waiting.clear()
        self._exporter.shutdown()  # ends a wait between two tries
        if self._open:
            self._counted("dropped", self._open)

    # ---- in the thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_EVERY_S)
            self._wake.clear()
            self._send_all()
        self._send_all()
        self._on_loop(self._finished.set)

    def _send_all(self) -> None:
        while self._waiting:
            batch: list[Spans] = []
            with contextlib.suppress(IndexError):  # `close` has given up
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.popleft())
            self._on_loop(self._note, self._send(batch), len(batch), self._answers.why or _LastWords.text)

    def _on_loop(self, call: Callable[..., None], *given: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *given)

    def _send(self, batch: Sequence[Spans]) -> int:
        """How many of these requests failed."""
        spans: list[ReadableSpan] = []
        self._answers.clear()
        try:
            for trace, make in batch:
                spans += _readable(trace, make(), self._resource)
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - whatever it is, the next ones are to be sent
            _log.exception("spans cannot be sent")
            taken = False
        return self._answers.lost(len(batch)) if taken else len(batch)

    # ---- on the loop again

    def _note(self, failed: int, requests: int, why: str) -> None:
        if self._closed:
            return
        self._open -= requests
        for result, number in (("sent", requests - failed), ("failed", failed)):
            if number:
                self._counted(result, number)
        if self._away and not failed:
            _log.warning("the collector takes traces again")
        elif failed and not self._away:
            _log.warning("the collector does not take traces", why=why, docs="docs/traces.md")
        self._away = failed > 0


def _readable(trace: Trace, facts: Sequence[SpanFacts], resource: Resource) -> list[ReadableSpan]:
    flags = TraceFlags(trace.flags)
    state = TraceState.from_header([trace.state]) if trace.state else None
    made = []
    for one in facts:
        parent = None
        if one.parent_id:
            remote = one.parent_id == trace.parent_id
            parent = SpanContext(trace.trace_id, one.parent_id, is_remote=remote, trace_flags=flags, trace_state=state)
        made.append(
            ReadableSpan(
                one.name,
                SpanContext(trace.trace_id, one.span_id, is_remote=False, trace_flags=flags, trace_state=state),
                parent,
                resource,
                one.attributes,
                kind=_KINDS[one.kind],
                status=_FAILED if one.failed else _UNSET,
                start_time=one.start_ns,
                end_time=one.end_ns,
                instrumentation_scope=_SCOPE,
            )
        )
    return made


class _LastWords(logging.Filter):
    """OpenTelemetry's exporter writes a line for each try. The last one is kept, for the one line that is ours."""

    text = ""

    @classmethod
    def listen(cls) -> None:
        logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        if not any(isinstance(one, cls) for one in logger.filters):
            logger.addFilter(cls())

    def filter(self, record: logging.LogRecord) -> bool:
        _LastWords.text = record.getMessage()
        return False
