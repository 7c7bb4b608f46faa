"""What a collector answers decides what counts as sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from quotapool.domain.trace import Trace
from quotapool.traces.answers import Answers
from quotapool.traces.exporting import SpanSender, otlp_exporter
from quotapool.traces.spans import SpanFacts
from structlog.testing import capture_logs

from tests.fakes.collector import Receiver, receiving

TOKEN = "Bearer a-token-of-the-collector"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


async def counted(url: str, requests: int) -> dict[str, int]:
    """What becomes of so many requests, two spans each, in one message."""
    counts: Counter[str] = Counter()
    answers = Answers()
    exporter = otlp_exporter(url, {"authorization": TOKEN}, answers, ca_file=None, timeout_s=0.5, gzip=False)
    sender = SpanSender(exporter, {}, lambda result, number: counts.update({result: number}), answers=answers)
    facts = [SpanFacts("POST /v1/embeddings", "server", 7, 5, 10, 90, {}), SpanFacts("m", "client", 8, 7, 20, 80, {})]
    for _ in range(requests):
        sender.add((Trace(11, 7, 5, 1, "", 0, goes_on=False), lambda: facts))
    await sender.close(10)
    return dict(counts)


def rejecting(spans: int, why: str) -> bytes:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = spans
    answer.partial_success.error_message = why
    return answer.SerializeToString()


@pytest.mark.parametrize("answer", [b"", rejecting(0, "mind the size"), b"{}", b"<html>"])
async def test_what_the_collector_took_is_sent_whatever_else_it_says(receiver, answer):
    receiver.answer = answer
    assert await counted(receiver.url, 3) == {"sent": 3}


@pytest.mark.parametrize(("spans", "counts"), [(1, {"sent": 2, "failed": 1}), (6, {"failed": 3})])
async def test_spans_that_a_200_leaves_out_have_failed_and_the_log_says_why(receiver, spans, counts):
    receiver.answer = rejecting(spans, "more than\nis allowed")
    with capture_logs() as lines:
        assert await counted(receiver.url, 3) == counts
    assert [line["why"] for line in lines] == ["it rejected spans: more than is allowed"]


@pytest.mark.parametrize("status", [302, 308, 400, 401, 429, 503])
async def test_other_answers_are_failures_and_the_log_names_the_status(receiver, status):
    """A redirect is not followed, so nothing has arrived."""
    receiver.status = status
    with capture_logs() as lines:
        assert await counted(receiver.url, 3) == {"failed": 3}
    assert [line["why"].startswith(f"it answered {status} ") for line in lines] == [True]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"\n" * 0x10000 + b"\r\n")
        await writer.drain()


async def byte_by_byte(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"\n")
        await asyncio.sleep(0.05)


async def broken_off(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 1000\r\n\r\n<html>")


@pytest.mark.parametrize("body", [endless, byte_by_byte, broken_off])
async def test_a_body_without_an_end_holds_nothing_up_for_the_status_has_said_it(body):
    """Where all of it were read, the sender would still read when it is closed, and its requests would be dropped."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = re.search(rb"(?i)content-length: (\d+)", await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(int(length[1]))
        with contextlib.suppress(ConnectionError):
            await body(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    counts = await counted(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 3)
    assert counts == {"sent": 3}
    server.close()


async def test_the_collector_gets_the_configured_authorization_whatever_netrc_says(receiver, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert await counted(receiver.url, 1) == {"sent": 1}
    assert [headers["authorization"] for headers, _ in receiver.messages] == [TOKEN]
