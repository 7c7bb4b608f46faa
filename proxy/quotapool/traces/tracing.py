"""A worker's traces: which requests are in one, and their spans to the collector when they have ended."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from quotapool.domain.request_record import RequestRecord
from quotapool.domain.trace import Trace
from quotapool.openai.head import Head
from quotapool.settings import Traces
from quotapool.traces.answers import Answers
from quotapool.traces.exporting import SpanSender, otlp_exporter
from quotapool.traces.joining import Joining
from quotapool.traces.spans import SpanMaker

# While the thread encodes, the event loop gets its turn after 1 ms instead of Python's 5 (decision 29).
_SWITCH_S: Final = 0.001


class Tracing:
    """`begin` for each request that comes in, and `ended` for each that has a trace; `close` at the end."""

    def __init__(self, joining: Joining, maker: SpanMaker, sender: SpanSender) -> None:
        self.begin: Callable[[Head], Trace | None] = joining.begin
        self._maker = maker
        self._sender = sender

    def ended(self, record: RequestRecord) -> None:
        """A request with a trace is over. Not of one that we never knew whose it was: a stranger's `traceparent` must
        not write into these traces. It has no trace then."""
        trace = record.trace
        if trace is None:
            return
        if trace.parent_id and not record.client and not record.endpoint:
            record.trace = None
            return
        self._sender.add((trace, partial(self._maker.spans, record, trace)))

    def response_ended(self, record: RequestRecord) -> None:
        """A response within a session is over."""
        if (trace := record.trace) is not None:
            self._sender.add((trace, partial(self._maker.response, record, trace)))

    async def close(self, seconds: float) -> None:
        """Send what waits, within so many seconds."""
        await self._sender.close(seconds)


def open_tracing(
    options: Traces,
    attributes: dict[str, str],
    *,
    ca_file: str | None,
    word: Callable[[str], str],
    upstream_of: Callable[[str], str],
    counted: Callable[[str, int], None],
) -> Tracing:
    """For options with an endpoint. `attributes`: of this process, beside those of the options; the rest: see
    `SpanMaker` and `SpanSender`. On a running event loop."""
    rng = random.SystemRandom()
    sys.setswitchinterval(_SWITCH_S)
    answers = Answers()
    exporter = otlp_exporter(
        options.url,
        {name: value.get_secret_value() for name, value in options.headers.items()},
        answers,
        ca_file=ca_file,
        timeout_s=options.timeout,
        gzip=options.compression == "gzip",
    )
    return Tracing(
        Joining(options.ratio, goes_on=options.propagate),
        SpanMaker(word=word, upstream_of=upstream_of, new_id=lambda: rng.getrandbits(64) or 1),
        SpanSender(
            exporter, {**attributes, **options.attributes, "service.name": options.service}, counted, answers=answers
        ),
    )
