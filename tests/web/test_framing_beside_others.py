"""Where a request begins and ends: our reading beside h11's and aiohttp's, of generated messages, whole and in pieces.

Two servers that read one stream differently are how requests are smuggled. So what we serve nobody may read otherwise
(they may refuse it), what both of them serve we serve too, and how the bytes are cut changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import h11
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from quotapool.openai.refusal import Refusal
from quotapool.web.server import Server

from tests.web.test_heads import Wire

Request = tuple[bytes, bytes, bytes]  # method, target, body
CASES = 1500

HOSTS = [b"Host: a"] * 40 + [b"Host: a\r\nHost: a", b"X-A: 1", b"Host : a", b"host:a"]
LENGTHS = [b"%d"] * 30 + [b"+%d", b"0%d", b"%d, %d", b" %d ", b"-%d", b"0x%d", b"%d\r\nContent-Length: %d", b"%d_0"]
CODINGS = [b"chunked"] * 30 + [
    b"Chunked",
    b" chunked ",
    b"identity",
    b"gzip, chunked",
    b"chunked, chunked",
    b"xchunked",
]
ODD = [
    b"",
    b"",
    b"",
    b"",
    b"X-B: \t b c \t\r\n",
    b"X-C:\r\n",
    b"X-D: a\r\n b\r\n",
    b": x\r\n",
    b"X-E\r\n",
    b"X\x00: a\r\n",
]
STARTS = [*[b""] * 30, b"\r\n", b"\r\n\r\n", b" ", b"\n"]
VERSIONS = [b"HTTP/1.1"] * 40 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"RTSP/1.0"]
SIZES = [b"%x"] * 30 + [b"%X", b"0%x", b"%x;a=b", b'%x;a="b c"', b"%x ", b" %x", b"0x%x", b"+%x", b"%x;"]
TRAILERS = [*[b""] * 12, b"X-T: 1\r\n", b"Content-Length: 3\r\n", b"bad\r\n"]
BODIES = [b"", b"x", b"\r\n\r\n", b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"abc" * 50]


def messages(rng: random.Random) -> bytes:
    """One to three requests, most of them well formed in most of their parts."""
    return b"".join(message(rng, n) for n in range(rng.choice([1, 1, 2, 3])))


def message(rng: random.Random, n: int) -> bytes:
    pick, body = rng.choice, rng.choice(BODIES)
    lines = pick(HOSTS) + b"\r\n" + pick(ODD)
    framed = b""
    kind = pick(
        ["none", "length", "length", "chunks", "chunks", "both"] if rng.random() < 0.2 else ["length", "chunks"]
    )
    if kind in {"length", "both"}:
        form = pick(LENGTHS)
        lines += b"Content-Length: " + form % ((len(body),) * form.count(b"%d")) + b"\r\n"
        framed = body
    if kind in {"chunks", "both"}:
        lines += b"Transfer-Encoding: " + pick(CODINGS) + b"\r\n"
        cut = rng.randint(0, len(body))
        parts = [part for part in (body[:cut], body[cut:]) if part]
        framed = b"".join(pick(SIZES) % len(part) + b"\r\n" + part + b"\r\n" for part in parts)
        framed += pick([b"0\r\n"] * 8 + [b"00\r\n", b"0;x\r\n", b"0 \r\n"]) + pick(TRAILERS) + b"\r\n"
    start = pick(STARTS) + b"POST /%d " % n + pick(VERSIONS) + b"\r\n"
    whole = start + lines + b"\r\n" + framed
    if rng.random() < 0.1:
        at = rng.randrange(len(whole))
        whole = whole[:at] + pick([b"", b"\r", b"\n", b" ", b"\x00", b"0"]) + whole[at + 1 :]
    return whole


async def ours(*pieces: bytes) -> tuple[list[Request], bool]:
    """What we serve, and whether we refused something. Each piece comes when the loop has had some turns."""
    seen: list[Request] = []

    async def answer(exchange, _wanted) -> None:
        try:
            body = await exchange.read(10_000)
            seen.append((exchange.method.encode(), exchange.target.encode(), body))
            status = 200
        except Refusal as refusal:
            status = refusal.status
        await exchange.start(status, "", [], 0)
        await exchange.finish()

    server, wire = Server(answer), Wire()
    connection = server()
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        for _ in range(4):
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    await server.close()
    return seen, b"HTTP/1.1 4" in wire.sent or b"HTTP/1.1 5" in wire.sent


def h11s(data: bytes) -> tuple[list[Request], bool]:
    seen: list[Request] = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return seen, False
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                seen.append((bytes(head.method), bytes(head.target), body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return seen, False  # it closes after this one
                connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return seen, True


def aiohttps(data: bytes, loop: asyncio.AbstractEventLoop) -> tuple[list[Request], bool]:
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190)
    try:
        found, _, _ = parser.feed_data(data)
    except Exception:  # noqa: BLE001 - it has many
        return [], True
    seen = []
    for head, payload in found:
        if payload.exception() is not None:
            return seen, True
        if not payload.is_eof():
            break
        body = b"".join(getattr(payload, "_buffer", ()))
        seen.append((head.method.encode(), head.path.encode(), body))
        if head.should_close:
            break
    return seen, False


def corpus() -> Iterator[tuple[int, bytes]]:
    for seed in range(CASES):
        yield seed, messages(random.Random(seed))


async def test_what_we_serve_nobody_reads_otherwise_and_what_all_serve_we_serve():
    loop, agreed = asyncio.get_running_loop(), 0
    for seed, data in corpus():
        mine, _ = await ours(data)
        others = [h11s(data), aiohttps(data, loop)]
        for theirs, failed in others:
            shared = min(len(mine), len(theirs))
            assert mine[:shared] == theirs[:shared], (seed, data)
            if not failed:
                assert len(mine) <= len(theirs), (seed, data)
        of_another_version = b"HTTP/2.0" in data or b"HTTP/1.2" in data  # refused by us alone: 505
        if not any(failed for _, failed in others) and others[0][0] == others[1][0] and not of_another_version:
            assert mine == others[0][0], (seed, data)
            agreed += 1
    assert agreed > CASES // 10  # most of the corpus is broken in some way, but not all of it


async def test_well_formed_messages_are_served_by_all_three():
    loop = asyncio.get_running_loop()
    for body in BODIES:
        for framed in (
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
            b"Transfer-Encoding: chunked\r\n\r\n"
            + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
            + b"0\r\n\r\n",
        ):
            data = (b"POST /a HTTP/1.1\r\nHost: a\r\n" + framed) * 3
            expected = [(b"POST", b"/a", body)] * 3
            assert (await ours(data)) == h11s(data) == aiohttps(data, loop) == (expected, False)


@pytest.mark.parametrize("step", [1, 2, 3, 17])
async def test_how_the_bytes_are_cut_changes_nothing(step):
    for seed, data in corpus():
        if seed % (30 // step + 1):
            continue
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert await ours(*pieces) == await ours(data), (seed, data)


async def test_a_body_that_comes_late_changes_nothing():
    """Heads whole, bodies and what follows them later: cut at every blank line."""
    for seed, data in corpus():
        parts = data.split(b"\r\n\r\n")
        pieces = [part + b"\r\n\r\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
        assert await ours(*pieces) == await ours(data), (seed, data)
