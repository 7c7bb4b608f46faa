"""Collectors of traces: a receiver of OTLP over HTTP that keeps what it got, and OpenTelemetry's own before it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fakes.valkey import free_port

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True)
class Span:
    """As it arrived. Ids in hexadecimal; times in Unix nanoseconds; `parent` "": none."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool
    resource: dict[str, Any]

    @property
    def ms(self) -> float:
        return (self.end - self.start) / 1e6


class Receiver(ThreadingHTTPServer):
    """Keeps the spans that it is sent, as protobuf or JSON. `status`, `answer`: what it answers, once it is
    `released`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.messages: list[tuple[dict[str, str], bytes]] = []  # headers and bodies, decompressed
        self.status = 200
        self.answer = b""
        self.released = threading.Event()
        self.released.set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def roots(self) -> list[Span]:
        """Those without a parent among them."""
        ids = {span.id for span in self.spans}
        return [span for span in self.spans if span.parent not in ids]

    def tree(self) -> str:
        """One line a span, below its parent, in the order of their beginnings."""
        return "\n".join(line for root in self.roots() for line in self._lines(root, root.start, 0))

    def _lines(self, span: Span, zero: int, depth: int) -> Iterator[str]:
        indented = "  " * depth + span.name
        begins, error = (span.start - zero) / 1e6, "ERROR " * span.failed
        yield f"{indented:<40} {begins:>9.1f} ms +{span.ms:>8.1f} ms  {error}{span.kind}"
        for name, value in sorted(span.attributes.items()):
            yield f"{'  ' * depth}    {name}: {value}"
        for child in sorted((one for one in self.spans if one.parent == span.id), key=lambda one: one.start):
            yield from self._lines(child, zero, depth + 1)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.released.wait(60)
        if self.server.status == 200:
            self.server.messages.append((dict(self.headers.items()), body))
            self.server.spans += spans_in(body, is_json=self.headers["Content-Type"] == "application/json")
        self.send_response(self.server.status)
        if 300 <= self.server.status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None: ...


def spans_in(body: bytes, *, is_json: bool) -> list[Span]:
    if is_json:  # OTLP's own: ids in hexadecimal, enumerations as numbers
        document = json.loads(body)
    else:
        message = ExportTraceServiceRequest.FromString(body)
        document = MessageToDict(message, use_integers_for_enums=True)
        for span in _all(document):
            for field in ("traceId", "spanId", "parentSpanId"):
                span[field] = _hex(span.get(field, ""))
    found = []
    for resource in document["resourceSpans"]:
        of_process = _values(resource["resource"])
        for scope in resource["scopeSpans"]:
            found += [
                Span(
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId", ""),
                    span["name"],
                    KINDS[span["kind"]],
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    _values(span),
                    span.get("status", {}).get("code") == 2,
                    of_process,
                )
                for span in scope["spans"]
            ]
    return found


def _all(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


def _hex(base64_id: str) -> str:
    return base64.b64decode(base64_id).hex()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _values(owner: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in owner.get("attributes", [])}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    return [_value(one) for one in content["values"]] if kind == "arrayValue" else content


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        receiver.shutdown()
        receiver.server_close()


@contextlib.contextmanager
def collecting(program: str, directory: Path, receiver: Receiver) -> Iterator[str]:
    """OpenTelemetry's collector: the URL of its OTLP receiver. What it takes it passes on to `receiver`, as JSON."""
    port = free_port()
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"otlp_http": {"endpoint": receiver.url, "encoding": "json", "compression": "none"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
        },
    }
    file = directory / "otelcol.yaml"
    file.write_text(yaml.safe_dump(config))
    with (directory / "otelcol.log").open("wb") as log:
        process = subprocess.Popen([program, "--config", str(file)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _accepts(port):
            assert process.poll() is None, (directory / "otelcol.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
