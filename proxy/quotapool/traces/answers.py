"""What a collector answers, beyond what OpenTelemetry's exporter makes of it.

The exporter takes a redirect for a success, though it does not follow it, and does not read which spans a success left
out (`partial_success`). Its own words about a failure leave out the status that led to it.
https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import time
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships none
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from urllib3.exceptions import HTTPError

_LONGEST: Final = 200  # characters of the collector's own words
_MOST_READ: Final = 64 * 1024  # bytes of an answer


class Answers:
    """To the message that is being sent: `clear` before it, `hear` each answer, then ask. All in one thread."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.why = ""  # that not all spans were taken; "": they were, or there was no answer
        self._rejected: int | None = 0  # spans; None: all

    def hear(self, answer: Any, *_: object, **options: Any) -> None:
        """A hook of `requests`, with its `Response`, whose body nobody else reads, and the message's `timeout` in
        seconds."""
        self.clear()
        status: int = answer.status_code
        if 200 <= status < 300:
            try:
                partial = ExportTraceServiceResponse.FromString(_beginning(answer, options["timeout"])).partial_success
            except (DecodeError, HTTPError):  # a page or JSON, or broken off; the status counts
                return
            if partial.rejected_spans > 0:
                self._rejected = partial.rejected_spans
                self.why = f"it rejected spans: {_line(partial.error_message)}"
            return
        answer.close()
        self._rejected = None
        self.why = f"it answered {status} {_line(answer.reason or '')}".rstrip()

    def lost(self, requests: int) -> int:
        """How many of a message's requests lack spans there, at most: which spans were rejected is not said."""
        return requests if self._rejected is None else min(requests, self._rejected)


def _beginning(answer: Any, seconds: float) -> bytes:
    """Of its body, within so many seconds and one more wait for a byte; mostly all of it. Raises HTTPError."""
    until, body = time.monotonic() + seconds, b""
    while len(body) < _MOST_READ and time.monotonic() < until:
        piece = answer.raw.read1(_MOST_READ - len(body), decode_content=False)
        if not piece:
            return body  # the connection is used again
        body += piece
    answer.close()
    return body


def _line(words: str) -> str:
    return " ".join(words.split())[:_LONGEST]
