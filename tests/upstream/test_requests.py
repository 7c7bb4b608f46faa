"""What goes up: the head byte for byte, bodies whole or as they come, and answers that do not wait for their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from quotapool.upstream.interface import UpstreamFailure

from tests.fakes.heads import lines as lines_of
from tests.fakes.upstream_server import answering, get, talk_to, whole

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def seen(kind: str, method: str, target: str, headers, body) -> bytes:
    """The request as it arrives, chunked bodies with their framing."""
    arrived = []

    async def script(incoming) -> None:
        request = await incoming.request()
        if b"chunked" in request:
            request += await incoming.reader.readuntil(b"0\r\n\r\n")
        arrived.append(request)
        await incoming.send(EMPTY)
        await incoming.gone()

    async with talk_to(kind, script) as (client, server):
        await whole(await client.send(method, target, lines_of(headers), body))
        del server
    return arrived[0]


def lines(request: bytes) -> list[bytes]:
    """The head's lines, without Host, whose port differs from run to run."""
    head = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert sum(line.lower().startswith(b"host: 127.0.0.1:") for line in head) == 1
    return [line for line in head if not line.lower().startswith(b"host:")]


async def test_nothing_is_added_but_host(kind):
    request = await seen(kind, "GET", "/v1/models?a=b%20c&&d", [("x-B", "1"), ("X-a", "2"), ("x-B", "3")], None)
    assert lines(request)[0] == b"GET /v1/models?a=b%20c&&d HTTP/1.1"
    assert sorted(lines(request)[1:]) == [b"X-a: 2", b"x-B: 1", b"x-B: 3"]


async def test_headers_go_out_in_their_order_and_spelling():
    """aiohttp's client moves repeated ones together, and forgets those spelled in another way."""
    request = await seen("ours", "GET", "/", [("x-B", "1"), ("X-a", "2"), ("x-b", "3")], None)
    assert lines(request)[1:] == [b"x-B: 1", b"X-a: 2", b"x-b: 3"]


async def test_bytes_beyond_ascii_are_passed_on(kind):
    request = await seen(kind, "GET", "/", [("X-A", "é\tü")], None)
    assert "X-A: é\tü".encode() in lines(request)


async def test_bytes_that_are_no_utf_8_are_passed_on_as_they_came():
    """aiohttp's client cannot write them, though its server reads them so."""
    assert b"X-A: \xff" in lines(await seen("ours", "GET", "/", [("X-A", "\udcff")], None))


@pytest.mark.parametrize("size", [0, 2, 65_535, 65_536, 1_000_000])
async def test_a_body_goes_with_its_length(kind, size):
    body = b"x" * size
    request = await seen(kind, "POST", "/", [], body)
    assert request.endswith(b"\r\n\r\n" + body)
    assert lines(request)[1:] == [b"Content-Length: %d" % size] or size == 0


@pytest.mark.parametrize(("method", "length"), [("POST", [b"Content-Length: 0"]), ("DELETE", [b"Content-Length: 0"])])
async def test_no_body_where_one_could_be_says_so(kind, method, length):
    assert lines(await seen(kind, method, "/", [], None))[1:] == length


async def test_a_streamed_body_without_a_length_goes_in_chunks(kind):
    request = await seen(kind, "POST", "/", [("X-A", "1")], pieces(b"hello", b"", b"x" * 17))
    assert request.endswith(b"\r\n\r\n5\r\nhello\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n")
    assert lines(request)[1:] == [b"X-A: 1", b"Transfer-Encoding: chunked"]


async def test_a_streamed_body_with_a_length_goes_as_it_is(kind):
    request = await seen(kind, "POST", "/", [("Content-Length", "7")], pieces(b"hel", b"lo", b"", b"!!"))
    assert request.endswith(b"\r\n\r\nhello!!")
    assert lines(request)[1:] == [b"Content-Length: 7"]


INJECTIONS = [
    [("X-A", "1\r\nX-B: 2")],
    [("X-A", "1\nX-B: 2")],
    [("X-A", "1\rX-B: 2")],
    [("X-A", "1\0")],
    [("X-A\r\nX-B", "2")],
]
STRICTER = [
    [("X-A: 1", "2")],  # what aiohttp's client would send
    [("X A", "2")],
    [("", "2")],
    [("X-A", "1\x7f")],
    [("Content-Length", "3")],
    [("Content-Length", "2"), ("Content-Length", "2")],
    [("Content-Length", "+2")],
    [("Content-Length", "²")],
    [("Transfer-Encoding", "chunked")],
]


@pytest.mark.parametrize("headers", INJECTIONS, ids=repr)
async def test_a_header_is_one_line(kind, headers):
    """And where it would not be, nothing is sent. (aiohttp's client has connected by then, so `sent` is true.)"""
    async with talk_to(kind, answering([EMPTY])) as (client, _):
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("POST", "/", lines_of(headers), b"{}")
        assert failed.value.reason == "protocol"
        assert failed.value.sent is (kind == "aiohttp")
        assert await get(client) == (200, b"")


@pytest.mark.parametrize("headers", STRICTER, ids=repr)
async def test_our_client_refuses_a_head_that_could_be_misread(headers):
    async with talk_to("ours", answering([EMPTY])) as (client, server):
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("POST", "/", lines_of(headers), b"{}")
        assert (failed.value.reason, failed.value.sent, server.connections) == ("protocol", False, 0)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX-B: 1", "/a HTTP/1.1\r\n\r\nGET /b"])
async def test_a_target_is_one_word(target):
    """aiohttp's client leaves this to its caller."""
    async with talk_to("ours", answering([EMPTY])) as (client, server):
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("GET", target, [], None)
        assert (failed.value.sent, server.connections) == (False, 0)


# ---- bodies that come piece by piece


async def test_a_streamed_body_waits_for_an_upstream_that_does_not_read(kind):
    """Given 200 MB for an upstream that reads nothing, I expect most of it never to be asked for."""
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(3200):
            asked += 65_536
            yield b"x" * 65_536

    async def script(incoming) -> None:
        incoming.reader._transport.pause_reading()
        await done.wait()

    done = asyncio.Event()
    async with talk_to(kind, script) as (client, _):
        sending = asyncio.create_task(client.send("POST", "/", [], endless()))
        before = -1
        while asked != before or asked == 0:
            before = asked
            await asyncio.sleep(0.03)
        assert asked < 32 * 2**20
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        done.set()


async def test_an_answer_that_comes_early_wins(kind):
    """Upstream says 413 after the first bytes; the rest is not waited for, and the connection not used again."""
    stopped = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def script(incoming) -> None:
        await incoming.request()
        if incoming.number == 1:
            await incoming.reader.readuntil(b"first")
            await incoming.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await incoming.gone()
        else:
            await incoming.send(EMPTY)

    async with talk_to(kind, script) as (client, server):
        answer = await client.send("POST", "/", [], slow())
        assert (answer.status, await whole(answer)) == (413, b"big")
        assert await get(client) == (200, b"")
        assert server.connections == 2
        if kind == "ours":  # aiohttp lets go of the body later
            await asyncio.wait_for(stopped.wait(), 1)


async def test_an_answer_may_begin_before_the_body_has_ended(kind):
    """Both flow at once, as a file that is worked on while it comes in."""
    more = asyncio.Event()

    async def two() -> AsyncIterator[bytes]:
        yield b"abc"
        await more.wait()
        yield b"def"

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.reader.readuntil(b"abc")
        await incoming.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await incoming.reader.readuntil(b"def\r\n0\r\n\r\n")
        await incoming.send(b"1\r\nb\r\n0\r\n\r\n")
        await incoming.request()
        await incoming.send(EMPTY)

    async with talk_to(kind, script) as (client, server):
        answer = await client.send("POST", "/", [], two())
        assert await answer.chunk() == b"a"
        more.set()
        assert await whole(answer) == b"b"
        assert await get(client) == (200, b"")
        assert server.connections == 1


class Broken(Exception):
    pass


async def breaks() -> AsyncIterator[bytes]:
    yield b"abc"
    raise Broken


@pytest.mark.parametrize("length", [[], [("Content-Length", "10")]], ids=["chunks", "a length"])
async def test_a_body_whose_source_breaks_never_looks_complete(kind, length):
    arrived = []
    left = asyncio.Event()

    async def script(incoming) -> None:
        head = await incoming.reader.readuntil(b"\r\n\r\n")
        try:
            while piece := await incoming.reader.read(65_536):
                arrived.append(piece)
        finally:
            del head
            left.set()

    async with talk_to(kind, script) as (client, _):
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("POST", "/", lines_of(length), breaks())
        assert (failed.value.reason, failed.value.sent) == ("protocol", True)
        await asyncio.wait_for(left.wait(), 1)
    assert b"0\r\n\r\n" not in b"".join(arrived)


@pytest.mark.parametrize("data", [b"short", b"much too long"])
async def test_a_body_of_another_length_than_promised_is_not_sent_as_if_it_fitted(data):
    """aiohttp's client sends what it gets, or waits for an answer that cannot come."""

    async def script(incoming) -> None:
        await incoming.gone()

    async with talk_to("ours", script) as (client, _):
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("POST", "/", [(b"Content-Length", b"10")], pieces(data))
    assert failed.value.reason == "protocol"
