"""Every operation of OpenAI's SDK, asked directly and through the proxy: the differences are those of the documents."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from quotapool.openai.operations import NEVER_FORWARDED, OPERATIONS
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts

from tests.fakes.mirror import Message, Mirror, exchange, open_mirror

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "passthrough.md").read_text()
RULES = re.findall(r"^\| (up|down) \| `([a-z0-9*-]+)` \| (dropped|replaced) \|", PAGE, re.MULTILINE)
SDK = [
    (method, path)
    for method, path in (
        line.split()
        for line in (ROOT / "tests" / "data" / "operations.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    if path.split("/")[1] not in NEVER_FORWARDED
]
TABLE = {operation.path: operation for operation in OPERATIONS}
QUERY = "?include[]=a&include[]=b%2Fc&limit=2&empty=&after=%E2%82%AC+x"
JSON = b'{"model" : "gpt-4o-mini",\n  "input":"caf\\u00e9 \xe2\x82\xac", "messages": [ ], "n":1 , "x":{"y":[1,2.50]}}  '
FORM = (
    b'--b-1\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o-transcribe\r\n'
    b'--b-1\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + bytes(range(256)) * 40 + b"\r\n--b-1--\r\n"
)
SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"
EVENTS = (
    b': hello\r\n\r\nevent: a.b\r\ndata: {"type":"a.b", "delta":"\xe2\x82\xac"}\r\n\r\n'
    b'data: {"type":"image_generation.completed","usage":{"input_tokens":3,"output_tokens":4}}\n\n'
    b"data: [DONE]\n\n"
)
ANSWERS = {
    "json": ("application/json", b'{ "object" :"x",\n\t"data":[ ],"usage": null, "n": 1.50e2}\n'),
    "binary": ("application/octet-stream", bytes(range(256)) * 300),
    "sdp": ("application/sdp", SDP),
    "text": ("text/plain; charset=utf-8", "1\n00:00 --> 00:01\nCaf\u00e9\n".encode()),
    "sse": ("text/event-stream; charset=utf-8", EVENTS),
}
SENT = [
    "User-Agent: OpenAI/Python 3.54.0", "Authorization: Bearer a-key-of-the-client", "x-stainless-LANG: python",
    "OpenAI-Organization: org-x", "OpenAI-Project: proj_x", "OpenAI-Beta: assistants=v2", "Accept: */*",
    "X-Twice: 1", "x-twice: 2", "Cookie: a=b", "Accept-Encoding: gzip, deflate", "X-Quotapool-Max-Wait: 5s",
    "api-key: k", "TE: trailers", "Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=9",
    "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic x", "Trailer: X-T", "Idempotency-Key: once",
    "Sec-WebSocket-Protocol: realtime", "traceparent: 00-1-2-01", "X-Empty:",
]  # fmt: skip
RETURNED = [
    "Date: Sun, 22 Nov 2026 12:00:00 GMT", "x-request-id: req_1", "OpenAI-Version: 2020-10-01", "X-Twice: 1",
    "x-twice: 2", "Set-Cookie: __cf_bm=1", "openai-organization: org-y", "openai-project: proj_y",
    "x-ratelimit-limit-requests: 500", "x-ratelimit-reset-tokens: 6ms", "X-Quotapool-Source: forged",
    "Connection: keep-alive, X-Back", "X-Back: 1", "Keep-Alive: timeout=9", "Server: cloudflare", 'ETag: "a"',
    "Access-Control-Expose-Headers: X-Request-ID", "x-should-retry: false", "Retry-After: 7", "Vary: Accept",
    "Proxy-Authenticate: Basic", "Trailer: X-T", "X-Accel-Buffering: yes",
]  # fmt: skip


def cleaned(message: Message, way: str) -> list[tuple[str, str]]:
    """The fields that the documents promise to leave alone."""
    hop = {part.strip().lower() for value in message.all("connection") for part in value.split(",")}
    rules = [name for w, name, _ in RULES if w == way]
    exact = {name for name in rules if not name.endswith("*")}
    begins = tuple(name[:-1] for name in rules if name.endswith("*"))
    return [
        (name, value)
        for name, value in message.fields
        if (low := name.lower()) not in exact | hop and not low.startswith(begins)
    ]


def framed(start: str, lines: list[str], content_type: str, body: bytes, *, chunked: bool) -> bytes:
    lines = [*lines, f"Content-Type: {content_type}"] if content_type else lines
    if chunked:
        lines = [*lines, "Transfer-Encoding: chunked"]
        half = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece)
        body += b"0\r\n\r\n"
    elif body or content_type:
        lines = [*lines, f"Content-Length: {len(body)}"]
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1") + body


@pytest.fixture
async def mirror(wire) -> AsyncIterator[Mirror]:
    async with open_mirror() as opened:
        client = UpstreamClient(opened.url, Timeouts(2, 5, 5))
        wire.house.configure(upstream=client)
        yield opened
        await client.close()


async def compare(wire, mirror: Mirror, request: bytes, answer: bytes) -> None:
    """The request, directly and through the proxy."""
    path = request.split(b" ")[1].decode().partition("?")[0]
    mirror.answers = {path: answer}
    mirror.arrived.clear()
    headless = request.startswith(b"HEAD ")
    direct = await exchange(mirror.port, request, headless=headless)
    passed = await exchange(wire.port, request, headless=headless)
    asked, arrived = mirror.arrived
    assert arrived.start == asked.start
    assert arrived.body == asked.body
    assert cleaned(arrived, "up") == cleaned(asked, "up")
    assert passed.start == direct.start
    assert passed.body == direct.body
    assert cleaned(passed, "down") == cleaned(direct, "down")


def spelled(path: str) -> str:
    return "/v1" + re.sub(r"\{[^}]*\}", "id_%41-1", path)


async def test_every_operation_passes_but_for_what_the_documents_say(wire, mirror):
    for n, (method, path) in enumerate(SDK):
        operation = TABLE[re.sub(r"\{[^}]*\}", "{id}", path).strip("/")]
        bodies = [("", b"")]
        if method not in {"GET", "DELETE"}:
            kinds = {"json": ("application/json", JSON), "form": ("multipart/form-data; boundary=b-1", FORM),
                     "sdp": ("application/sdp", SDP)}  # fmt: skip
            bodies = [kinds[kind] for kind in sorted(operation.body & set(kinds))] or bodies
        for content_type, body in bodies:
            for kind in sorted(operation.answer):
                start = f"{method} {spelled(path)}{QUERY} HTTP/1.1"
                lines = [f"Host: localhost:{wire.port}", *SENT]
                request = framed(start, lines, content_type, body, chunked=n % 2 == 1 and bool(body))
                returned_type, returned = ANSWERS[kind]
                status = "201 Created" if kind == "sdp" else "200 OK"
                more = [*RETURNED, "Location: /v1/realtime/calls/rtc_1"] if kind == "sdp" else RETURNED
                answer = framed(
                    f"HTTP/1.1 {status}", more, returned_type, returned, chunked=n % 3 == 0 or kind == "sse"
                )
                await compare(wire, mirror, request, answer)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("status", ["200 OK", "202 Made Up Reason", "204 No Content", "302 Found", "303 See Other",
                                    "307 Temporary Redirect", "308 Permanent Redirect", "304 Not Modified",
                                    "400 Bad Request", "404 Not Found", "409 Conflict", "422 Unprocessable Entity",
                                    "418 I'm a teapot"])  # fmt: skip
async def test_every_method_and_status_passes(method, status, wire, mirror):
    headed = method == "HEAD" or status[:3] in {"204", "304"}
    body = b"" if headed else b'{"error":{"message":"x","type":"y","param":null,"code":"z"}}'
    lines = [*RETURNED, "Location: https://elsewhere.example/v1/x?y=%20"]
    answer = framed(f"HTTP/1.1 {status}", lines, "" if headed else "application/json", body, chunked=False)
    for target in ("/v1/files/file-1", "/v1/something/new"):
        sends = b'{"a":1}' if method in {"POST", "PUT", "PATCH"} else b""
        request = framed(f"{method} {target} HTTP/1.1", ["Host: localhost", *SENT], "application/json" * bool(sends),
                         sends, chunked=False)  # fmt: skip
        await compare(wire, mirror, request, answer)


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/embeddings", "/v1/images/generations", "/v1/batches",
                                    "/v1/something/new"])  # fmt: skip
@pytest.mark.parametrize("chunked", [False, True])
async def test_compressed_requests_pass_as_they_are(target, chunked, wire, mirror):
    body = gzip.compress(JSON.replace(b'"n":1', b'"stream":true'), mtime=0)
    lines = ["Host: localhost", "Content-Encoding: gzip", *SENT]
    request = framed(f"POST {target} HTTP/1.1", lines, "application/json", body, chunked=chunked)
    answer = framed("HTTP/1.1 200 OK", RETURNED, *ANSWERS["json"], chunked=False)
    await compare(wire, mirror, request, answer)
    assert len(mirror.arrived) == 2


async def test_a_compressed_request_that_cannot_be_read_is_refused_where_it_must_be(wire, mirror):
    request = framed("POST /v1/chat/completions HTTP/1.1", ["Host: localhost", "Content-Encoding: br"],
                     "application/json", b"\x0b\x02\x80{}\x03", chunked=False)  # fmt: skip
    refused = await exchange(wire.port, request)
    assert refused.start.startswith("HTTP/1.1 400 ")
    assert b"Content-Encoding" in refused.body
    assert mirror.arrived == []


@pytest.mark.parametrize("target", ["/v1/files/file-1/content", "/v1/containers/cntr_1/files/cfile_1/content",
                                    "/v1/something/new", "/v1/chat/completions/chatcmpl-1"])  # fmt: skip
async def test_compressed_answers_pass_as_they_are(target, wire, mirror):
    body = gzip.compress(bytes(range(256)) * 100, mtime=0)
    request = framed(f"GET {target} HTTP/1.1", ["Host: localhost", *SENT], "", b"", chunked=False)
    lines = [*RETURNED, "Content-Encoding: gzip"]
    await compare(wire, mirror, request, framed("HTTP/1.1 200 OK", lines, "text/plain", body, chunked=False))
    asked = [message.all("accept-encoding") for message in mirror.arrived]
    plain = target.startswith("/v1/chat")  # its answer is ours to read
    assert asked == [["gzip, deflate"], ["identity"] if plain else ["gzip, deflate"]]


async def test_a_download_that_breaks_off_is_shown_as_broken(wire, mirror):
    mirror.answers["/v1/files/file-1/content"] = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc"
    )
    with pytest.raises((EOFError, ConnectionError, TimeoutError)):
        await exchange(wire.port, b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_the_documents_list_no_difference_that_is_none():
    """Each rule is used by a header of SENT or RETURNED, or it is one of framing."""
    exercised = {line.partition(":")[0].lower() for line in SENT} | {"host", "content-length", "transfer-encoding"}
    back = {line.partition(":")[0].lower() for line in RETURNED} | {"content-length", "transfer-encoding"}
    unused = [
        (way, name)
        for way, name, _ in RULES
        if not any(known == name or (name.endswith("*") and known.startswith(name[:-1]))
                   for known in (exercised if way == "up" else back))
    ]  # fmt: skip
    spared = {
        "up": "expect upgrade proxy-authenticate sec-websocket-key sec-websocket-version sec-websocket-extensions",
        "down": "proxy-authorization proxy-connection te upgrade",
    }
    assert set(unused) <= {(way, name) for way, names in spared.items() for name in names.split()}
    assert len(RULES) > 30


async def test_each_header_that_the_documents_call_dropped_is_dropped(wire, mirror):
    for name in [name for way, name, what in RULES if way == "up" and what == "dropped"]:
        field = name.replace("*", "anything")
        if field in {"upgrade", "expect", "te", "trailer", "connection"}:
            continue  # these have a meaning here, and tests of their own
        request = f"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n{field}: x\r\n\r\n".encode()
        await exchange(wire.port, request)
        assert mirror.arrived[-1].all(field) == [], field
    for name in [name for way, name, what in RULES if way == "down" and what == "dropped"]:
        if name in {"upgrade", "trailer"}:
            continue
        mirror.answers["/v1/files"] = f"HTTP/1.1 200 OK\r\n{name}: x\r\nContent-Length: 0\r\n\r\n".encode()
        got = await exchange(wire.port, b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert got.all(name) == [], name


async def test_trailers_end_here_both_ways_and_take_nothing_with_them(wire, mirror):
    mirror.answers["/v1/files"] = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    request = (
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTrailer: X-T\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nX-T: 1\r\nAuthorization: Bearer forged\r\n\r\n"
    )
    got = await exchange(wire.port, request)
    assert got.body == b"abc"
    assert mirror.arrived[-1].body == b"wxyz"
    assert "forged" not in str(mirror.arrived[-1].fields)
    assert (await exchange(wire.port, b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")).body == b"abc"
