"""The spans of a request, made from its record once it is over. No clock, no I/O, no OpenTelemetry.

    POST /v1/chat/completions      the request as its client sees it (server)
      reserve                      until an account has taken it
        queue                      of that, in the queue
      chat gpt-4o                  an attempt (client)
        relay                      from the client's first byte to the last

Names of attributes: OpenTelemetry's conventions for HTTP 1.44 and for generative AI; `quotapool.*` is ours, explained
in docs/traces.md. None of them can hold a prompt, an answer or a secret: they are made of what a log line may show.
There is no `url.path`, since paths have ids in them, but `http.route`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from quotapool.domain.quantities import Certainty
from quotapool.domain.request_record import ANONYMOUS, AttemptRecord, RequestRecord
from quotapool.domain.trace import Trace
from quotapool.domain.wallet import PICO

Value = str | bool | int | float | list[str]

_LONGEST: Final = 128  # characters of a name that comes from a client or from upstream
_MOST_ATTEMPTS: Final = 128  # of one request or session
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# `gen_ai.operation.name` by path; what is not here is an ordinary HTTP call. The conventions have no name for images
# and speech but the one for "multimodal content generation".
_OPERATIONS: Final = {
    "chat/completions": "chat",
    "responses": "chat",
    "responses/compact": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "images/generations": "generate_content",
    "images/edits": "generate_content",
    "images/variations": "generate_content",
    "audio/speech": "generate_content",
    "audio/transcriptions": "generate_content",
    "audio/translations": "generate_content",
    "videos": "generate_content",
}
_AZURE: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


class SpanFacts(msgspec.Struct, eq=False):
    """One span. Times are Unix nanoseconds. `parent_id` 0: there is none. `failed`: its status is an error."""

    name: str
    kind: Literal["server", "client", "internal"]
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    failed: bool = False


class SpanMaker:
    """`word` masks secrets in a name that a client or upstream chose. `upstream_of`: the base URL of the upstream of a
    key. `new_id`: a random id of 64 bits, not 0."""

    def __init__(
        self, *, word: Callable[[str], str], upstream_of: Callable[[str], str], new_id: Callable[[], int]
    ) -> None:
        self._word = word
        self._upstream_of = upstream_of
        self._new_id = new_id

    def spans(self, record: RequestRecord, trace: Trace) -> list[SpanFacts]:
        """Of a request or a session that has ended."""
        whole = self._whole(record, trace)
        return [whole, *self._parts(record, trace)]

    def response(self, record: RequestRecord, trace: Trace) -> list[SpanFacts]:
        """Of a response within a session, whose record this is; its parent is the session's span."""
        span = self._attempt(record, trace, record.attempts[0], self._new_id(), record.started, record.ended)
        span.parent_id = trace.span_id
        model = self._name(record.model)
        span.name = f"chat {model}".rstrip()
        span.attributes |= _present({"gen_ai.operation.name": "chat", "gen_ai.request.model": model})
        span.attributes["quotapool.request_id"] = record.id
        for of_http in ("http.request.method", "http.response.status_code"):
            span.attributes.pop(of_http, None)
        return [span]

    # ---- the request itself

    def _whole(self, record: RequestRecord, trace: Trace) -> SpanFacts:
        method = record.method if record.method in _METHODS else "_OTHER"
        route = f"/v1/{record.path}" if record.path else ""
        error = _error_of(record)
        used = [attempt.account for attempt in record.attempts]
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "http.response.status_code": record.status,
            "quotapool.request_id": record.id,
            "quotapool.source": record.source,
            "quotapool.attempts": len(record.attempts),
        }
        attributes |= _present(
            {
                "http.route": route,
                "error.type": error,
                "quotapool.client": record.client or ("anonymous" if record.client == ANONYMOUS and used else ""),
                "quotapool.endpoint": record.endpoint,
                "quotapool.model": self._name(record.model),
                "quotapool.code": record.code,
                "quotapool.rules": list(record.rules),
                "quotapool.beyond": list(record.beyond),
                "quotapool.about": record.about,
                "quotapool.cache": record.cache,
                "quotapool.cache.kept": record.kept,
                "quotapool.waited_for": self._waited_for(record),
                "quotapool.cut": record.cut,
            }
        )
        if record.pico and record.attempts:
            attributes["quotapool.cost_usd"] = record.pico / PICO
        name = f"{method} {route}" if route else method
        start, end = self._span_of_time(trace, record.started, record.ended)
        return SpanFacts(name, "server", trace.span_id, trace.parent_id, start, end, attributes, failed=bool(error))

    def _parts(self, record: RequestRecord, trace: Trace) -> Iterator[SpanFacts]:
        queued = 0.0
        for number, attempt in enumerate(record.attempts[:_MOST_ATTEMPTS]):
            yield from self._reserve(record, trace, attempt.asked, attempt.began, attempt.waited_s - queued, attempt)
            queued = attempt.waited_s
            ended = attempt.began + attempt.took_s
            span_id = trace.attempt_id(number)
            span = self._attempt(record, trace, attempt, span_id, attempt.began, ended)
            span.attributes["quotapool.attempt"] = number + 1
            yield span
        last = record.attempts[-1] if record.attempts else None
        if record.asked > (last.began if last is not None else 0.0):  # in vain
            until = min(record.ended, record.asked + max(0.0, record.queued_s - queued)) if record.cut else record.ended
            yield from self._reserve(record, trace, record.asked, until, record.queued_s - queued, None)
        if (relay := self._relay(record, trace, last)) is not None:
            yield relay

    def _reserve(
        self,
        record: RequestRecord,
        trace: Trace,
        asked: float,
        until: float,
        queued_s: float,
        attempt: AttemptRecord | None,
    ) -> Iterator[SpanFacts]:
        """`attempt`: the one it led to; None: it was refused."""
        attributes: dict[str, Value] = (
            {"quotapool.code": record.code}
            if attempt is None
            else {"quotapool.key": attempt.key, "quotapool.account": attempt.account}
        )
        start, end = self._span_of_time(trace, asked, until)
        span_id = self._new_id()
        yield SpanFacts("reserve", "internal", span_id, trace.span_id, start, end, _present(attributes))
        if queued_s > 0:
            start, end = self._span_of_time(trace, max(asked, until - queued_s), until)
            waited = _present({"quotapool.waited_for": self._waited_for(record)})
            yield SpanFacts("queue", "internal", self._new_id(), span_id, start, end, waited)

    def _relay(self, record: RequestRecord, trace: Trace, last: AttemptRecord | None) -> SpanFacts | None:
        """From the first byte to the client until all is sent: of an attempt, of a session, or of a kept answer."""
        first = record.first_byte
        ended = record.ended
        parent_id = trace.span_id
        if record.status == 101 and last is not None:
            first = last.began + last.took_s if first is None else first
        elif first is None or record.source == "proxy":
            return None
        elif last is not None and last.began <= first <= last.began + last.took_s:
            number = len(record.attempts) - 1
            ended = last.began + last.took_s
            parent_id = trace.attempt_id(number) if number < _MOST_ATTEMPTS else parent_id
        elif record.source != "cache":
            return None  # an error of upstream's that was held: sent at once
        start, end = self._span_of_time(trace, first, ended)
        return SpanFacts("relay", "internal", self._new_id(), parent_id, start, end, {})

    # ---- a call upstream

    def _attempt(
        self, record: RequestRecord, trace: Trace, attempt: AttemptRecord, span_id: int, began: float, ended: float
    ) -> SpanFacts:
        operation = _OPERATIONS.get(record.path, "") if record.method == "POST" else ""
        model = self._name(record.model)
        host, port, provider = _server(self._upstream_of(attempt.key))
        is_fault = attempt.outcome not in {"ok", "cancelled", ""}
        error = (self._name(attempt.reason) or attempt.outcome) if is_fault else ""
        attributes: dict[str, Value] = {
            "http.request.method": record.method if record.method in _METHODS else "_OTHER",
            "server.address": host,
            "server.port": port,
            "gen_ai.provider.name": provider,
            "quotapool.key": attempt.key,
            "quotapool.account": attempt.account,
        }
        attributes |= _present(
            {
                "http.response.status_code": attempt.status,
                "error.type": error,
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": model if operation else "",
                "gen_ai.request.stream": record.streamed if operation else False,
                "gen_ai.response.model": self._name(attempt.model),
                "openai.response.service_tier": attempt.tier,
                "quotapool.outcome": attempt.outcome,
                "quotapool.upstream_request_id": self._name(attempt.upstream_request_id),
            }
        )
        attributes |= _usage(attempt)
        first = record.first_byte
        if record.streamed and operation and first is not None and began <= first <= ended:
            attributes["gen_ai.response.time_to_first_chunk"] = first - began
        start, end = self._span_of_time(trace, began, ended)
        name = f"{operation} {model}".rstrip() if operation else record.method
        return SpanFacts(name, "client", span_id, trace.span_id, start, end, attributes, failed=is_fault)

    def _name(self, text: str) -> str:
        """A name that others chose."""
        return self._word(text)[:_LONGEST] if text else ""

    def _waited_for(self, record: RequestRecord) -> str:
        return "" if record.waited_for is None else self._name(record.waited_for.words)

    @staticmethod
    def _span_of_time(trace: Trace, start: float, end: float) -> tuple[int, int]:
        """Of the monotonic clock, as Unix nanoseconds."""
        return trace.clock_ns + int(start * 1e9), trace.clock_ns + int(max(start, end) * 1e9)


def _present(attributes: dict[str, Value]) -> dict[str, Value]:
    """Without those that say nothing."""
    return {name: value for name, value in attributes.items() if value}


def _error_of(record: RequestRecord) -> str:
    """`error.type` of the request itself; "": it is none. What the client did wrong is no error of a server's span, nor
    is a client that leaves."""
    if record.status >= 500:
        return record.code or str(record.status)
    if record.cut and record.attempts and record.attempts[-1].outcome == "network":
        return record.attempts[-1].reason or "network"
    return ""


def _usage(attempt: AttemptRecord) -> dict[str, Value]:
    usage = attempt.usage
    if usage is None or usage.certainty is Certainty.NOTHING or not usage.total:
        return {}
    found: dict[str, Value] = {
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.output_tokens": usage.completion,
    }
    if usage.cached_prompt:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached_prompt
    if usage.reasoning:
        found["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning
    if usage.certainty is Certainty.AT_LEAST:
        found["quotapool.usage.certainty"] = usage.certainty.value
    return found


def _server(base: str) -> tuple[str, int, str]:
    """`server.address`, `server.port` and `gen_ai.provider.name` of an upstream. What speaks OpenAI's API counts as
    OpenAI, as the conventions ask where nothing else is known."""
    url = urlsplit(base)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    return host, port, "azure.ai.openai" if host.endswith(_AZURE) else "openai"
