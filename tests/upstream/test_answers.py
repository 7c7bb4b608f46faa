"""What upstream may say and what it may not: every framing of HTTP/1.1, whole, in pieces, broken off, and malformed.

The same promises for aiohttp's client, the reference, and for ours; where they differ the test says why.
"""

from __future__ import annotations

import asyncio

import pytest
from quotapool.upstream.interface import UpstreamFailure

from tests.fakes.upstream_server import CLIENTS, answering, get, once, talk_to, whole

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TWO_CHUNKS = CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
DECORATED = CHUNKED + b'2;name=value;q="a b"\r\nhe\r\n03;x\r\nllo\r\n0;last\r\nX-Digest: abc\r\nX-More: d\r\n\r\n'
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"
NOT_MODIFIED = b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 5\r\n\r\n'
HEAD_OF_CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD_ONLY = OK + b"Content-Length: 5\r\n\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
OLD_KEEP = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
TO_THE_END = OK + b"Content-Type: text/plain\r\n\r\nhello"
OLD = b"HTTP/1.0 200 OK\r\n\r\nhello"
FAREWELL = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"

LASTING = {  # (method, answer, status, body) that leave the connection open
    "a length": ("GET", LENGTH, 200, b"hello"),
    "chunks": ("GET", TWO_CHUNKS, 200, b"hello"),
    "chunks with extensions and trailers": ("GET", DECORATED, 200, b"hello"),
    "interim answers before": ("GET", INTERIM, 200, b"hello"),
    "204": ("GET", NO_CONTENT, 204, b""),
    "304 with a length": ("GET", NOT_MODIFIED, 304, b""),
    "nothing": ("GET", EMPTY, 200, b""),
    "HTTP/1.0 that keeps alive": ("GET", OLD_KEEP, 200, b"hello"),
    "HEAD": ("HEAD", HEAD_ONLY, 200, b""),
    "HEAD of nothing": ("HEAD", EMPTY, 200, b""),
}
ENDING = {
    "until the end": ("GET", TO_THE_END, 200, b"hello"),
    "HTTP/1.0": ("GET", OLD, 200, b"hello"),
    "a last answer": ("GET", FAREWELL, 200, b"hello"),
    "HEAD of chunks": ("HEAD", HEAD_OF_CHUNKS, 200, b""),
    "HEAD of what ends with the connection": ("HEAD", TO_THE_END[:-5], 200, b""),
}
GOOD = {**LASTING, **ENDING}


@pytest.mark.parametrize("case", GOOD)
async def test_an_answer_cut_at_any_byte_is_understood(kind, case):
    """Each answer in two segments, for every place to cut it, and then in as many segments as it has bytes."""
    method, wire, status, body = GOOD[case]
    cuts = [(wire[:n], wire[n:]) for n in range(1, len(wire))] + [tuple(wire[n : n + 1] for n in range(len(wire)))]
    left = iter(cuts)

    async def script(incoming) -> None:
        while True:
            await incoming.request()
            await incoming.send(*next(left))
            if case in ENDING:
                return

    async with talk_to(kind, script) as (client, _):
        for _ in cuts:
            assert await get(client, method) == (status, body)


async def test_a_head_cut_at_any_byte_has_the_same_headers(kind):
    """Those of the answer itself: neither of the interim ones before, nor of its trailers, nor of the answer before."""
    lines = b"X-Empty:\r\nx-space: \t a  b \t \r\nX-Twice: 1\r\nx-twice: 2\r\nX-Odd: caf\xc3\xa9\xff:\r\n"
    wire = INTERIM[: -len(LENGTH)] + OK + lines + DECORATED[len(OK) :]
    expected = [("X-Empty", ""), ("x-space", "a  b"), ("X-Twice", "1"), ("x-twice", "2"), ("X-Odd", "caf\u00e9\udcff:")]
    cuts = [(wire[:n], wire[n:]) for n in range(1, len(wire))] + [tuple(wire[n : n + 1] for n in range(len(wire)))]
    left = iter(cuts)

    async def script(incoming) -> None:
        while True:
            await incoming.request()
            await incoming.send(*next(left))

    async with talk_to(kind, script) as (client, _):
        for _ in cuts:
            answer = await client.send("GET", "/", [], None)
            assert list(answer.headers.items()) == [*expected, ("Transfer-Encoding", "chunked")]
            assert await whole(answer) == b"hello"


@pytest.mark.parametrize("case", LASTING)
async def test_a_connection_serves_again_after(kind, case):
    method, wire, status, body = LASTING[case]
    async with talk_to(kind, answering([wire])) as (client, server):
        for _ in range(3):
            assert await get(client, method) == (status, body)
        assert server.connections == 1


@pytest.mark.parametrize("case", ENDING)
async def test_a_connection_is_not_used_again_after(kind, case):
    """aiohttp uses one again after any HEAD; ours only if each byte of a body would be noticed."""
    method, wire, status, body = ENDING[case]

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(wire)
        if case == "a last answer":
            await incoming.gone()

    async with talk_to(kind, script) as (client, server):
        for _ in range(2):
            assert await get(client, method) == (status, body)
        assert server.connections == 2


async def test_headers_keep_their_order_their_spelling_and_their_bytes(kind):
    wire = OK + b"x-B: 1\r\nX-a:2\r\nSet-Cookie: a\r\nx-b:   3  \r\nSet-Cookie: b\r\nX-Raw: \xff\xc3\xa9\r\nX-No:\r\n"
    async with talk_to(kind, answering([wire + b"Content-Length: 0\r\n\r\n"])) as (client, _):
        answer = await client.send("GET", "/", [], None)
        answer.close()
    assert [(name, value) for name, value in answer.headers.items()][:-1] == [
        ("x-B", "1"),
        ("X-a", "2"),
        ("Set-Cookie", "a"),
        ("x-b", "3"),
        ("Set-Cookie", "b"),
        ("X-Raw", "\udcffé"),
        ("X-No", ""),
    ]
    assert answer.headers["X-B"] == "1"
    assert answer.reason == "OK"


async def test_trailers_are_no_headers(kind):
    async with talk_to(kind, answering([DECORATED])) as (client, _):
        answer = await client.send("GET", "/", [], None)
        assert await whole(answer) == b"hello"
    assert "X-Digest" not in answer.headers


async def test_no_redirect_is_followed_no_cookie_kept_and_nothing_unpacked(kind):
    wire = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\n"
    wire += b"Content-Length: 3\r\n\r\n\x1f\x8b\x08"
    heads = []

    async def script(incoming) -> None:
        while True:
            heads.append(await incoming.request())
            await incoming.send(wire)

    async with talk_to(kind, script) as (client, _):
        assert await get(client) == (302, b"\x1f\x8b\x08")
        assert await get(client) == (302, b"\x1f\x8b\x08")
    assert len(heads) == 2
    assert b"ookie" not in heads[1]


MALFORMED = {
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "an empty length": OK + b"Content-Length:\r\n\r\nhello",
    "a length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"5g\r\nhello\r\n0\r\n\r\n",
    "a hexadecimal prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "a header without a name": OK + b": 1\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in a header": OK + b"X-A: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "a lone CR in a header": OK + b"X-A: a\rX-B: b\r\nContent-Length: 5\r\n\r\nhello",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
}
STRICTER = {
    # aiohttp's client lets these through; we do not: a proxy must not guess where an answer ends.
    "two different codings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked before another coding": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nhello",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a coding that is not chunked": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "equal lengths": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a folded header": OK + b"X-A: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello",
    "a space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "lines that end with LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "HTTP/2.0 in the status line": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/0.9 in the status line": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status below 100": b"HTTP/1.1 099 What\r\nContent-Length: 5\r\n\r\nhello",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello",
    "a space after a chunk size": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
}


async def refused(kind: str, wire: bytes) -> UpstreamFailure:
    """The failure that such an answer is; its connection must be gone after it."""
    left = asyncio.Event()

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(wire)
        await incoming.gone()
        left.set()

    async with talk_to(kind, script) as (client, _):
        with pytest.raises(UpstreamFailure) as failed:
            await get(client)
        await asyncio.wait_for(left.wait(), 2)
    return failed.value


@pytest.mark.parametrize("case", MALFORMED)
async def test_an_answer_that_can_be_misread_is_refused(kind, case):
    failure = await refused(kind, MALFORMED[case])
    assert (failure.reason, failure.sent, failure.idle) == ("protocol", True, False)


@pytest.mark.parametrize("case", STRICTER)
async def test_our_client_refuses_more(case):
    failure = await refused("ours", STRICTER[case])
    assert (failure.reason, failure.sent, failure.idle) == ("protocol", True, False)


OVERSIZED = {
    "one long header": OK + b"X-A: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a header without end": OK + b"X-A: " + b"a" * 200_000,
    "a reason without end": b"HTTP/1.1 200 " + b"a" * 200_000,
}
STRICTLY_OVERSIZED = {  # the reference limits each line, not their sum
    "many headers": OK
    + b"".join(b"X-%04d: %b\r\n" % (n, b"a" * 90) for n in range(700))
    + b"Content-Length: 0\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2000,
    "a chunk extension without end": CHUNKED + b"5;" + b"a" * 300_000,
    "a trailer without end": CHUNKED + b"0\r\nX-A: " + b"a" * 600_000,
}


@pytest.mark.parametrize("case", OVERSIZED)
async def test_a_head_of_more_than_64_kib_is_refused(kind, case):
    failure = await refused(kind, OVERSIZED[case])
    assert (failure.reason, failure.sent) == ("protocol", True)


@pytest.mark.parametrize("case", STRICTLY_OVERSIZED)
async def test_our_client_bounds_everything_that_is_not_the_body(case):
    failure = await refused("ours", STRICTLY_OVERSIZED[case])
    assert (failure.reason, failure.sent) == ("protocol", True)


@pytest.mark.parametrize("body", [b"hello", b"x" * 60_000], ids=["short", "long"])
async def test_a_head_of_almost_64_kib_is_fine(kind, body):
    """Whatever comes with it at once."""
    wire = OK + b"X-A: " + b"a" * 65_000 + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with talk_to(kind, answering([wire])) as (client, _):
        assert await get(client) == (200, body)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("wire", [LENGTH, TWO_CHUNKS, DECORATED], ids=["a length", "chunks", "trailers"])
async def test_an_answer_broken_off_at_any_byte_is_a_failure(kind, wire, reset):
    """Never a clean end, and never a body that is shorter than promised."""
    for n in range(len(wire)):
        async with talk_to(kind, once(wire[:n], reset=reset)) as (client, _):
            with pytest.raises(UpstreamFailure) as failed:
                await get(client)
        failure = failed.value
        assert (failure.reason, failure.sent, failure.idle) == ("reset", True, False), wire[:n]


async def test_what_came_before_the_break_can_be_read(kind):
    async with talk_to(kind, once(LENGTH[:-2])) as (client, _):
        answer = await client.send("GET", "/", [], None)
        assert await answer.chunk() == b"hel"
        for _ in range(2):
            with pytest.raises(UpstreamFailure):
                await answer.chunk()
        answer.close()


async def test_a_body_until_the_end_that_ends_in_a_reset_is_a_failure():
    """aiohttp takes the reset for the end."""
    async with talk_to("ours", once(TO_THE_END, reset=True)) as (client, _):
        with pytest.raises(UpstreamFailure) as failed:
            await get(client)
    assert failed.value.reason == "reset"


LEFTOVERS = [("ours", OK), *((kind, over) for kind in CLIENTS for over in (LENGTH, b"junk", b"\0"))]


@pytest.mark.parametrize(("client_kind", "leftover"), LEFTOVERS)
@pytest.mark.parametrize("wire", [LENGTH, TWO_CHUNKS, NO_CONTENT], ids=["a length", "chunks", "204"])
async def test_bytes_after_an_answer_are_never_taken_for_the_next(client_kind, wire, leftover):
    """The answer itself is good; its connection is not: somebody else's answer may be on it.

    aiohttp may fail the good answer as well. Not asked of it: after half a head it reads the next one's as its end.
    """
    status, body = (204, b"") if wire is NO_CONTENT else (200, b"hello")

    async def script(incoming) -> None:
        await incoming.request()
        if incoming.number == 1:
            await incoming.send(wire + leftover)
            await incoming.gone()
        else:
            await incoming.send(EMPTY)

    async with talk_to(client_kind, script) as (client, server):
        try:
            assert await get(client) == (status, body)
        except UpstreamFailure as failure:
            if (client_kind, failure.reason) != ("aiohttp", "protocol"):
                raise
        assert await get(client) == (200, b"")
        assert server.connections == 2


async def test_bytes_that_come_while_a_connection_is_idle_end_it():
    """aiohttp's client would give them to the next request as its answer."""

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(LENGTH)
        if incoming.number == 1:
            await told.wait()
            await incoming.send(LENGTH)
        await incoming.gone()

    told = asyncio.Event()
    async with talk_to("ours", script) as (client, server):
        assert await get(client) == (200, b"hello")
        told.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert await get(client) == (200, b"hello")
        assert server.connections == 2


@pytest.mark.parametrize("late", [False, True], ids=["with the head", "after it"])
@pytest.mark.parametrize("head", [HEAD_ONLY, EMPTY], ids=["a length", "a length of none"])
@pytest.mark.parametrize("forged", [OK + b"Content-Length: 6\r\n\r\nforged", b"hello", b"h"])
async def test_a_body_that_a_head_s_answer_must_not_have_is_never_the_next_answer(head, late, forged):
    """I expect the connection to be dropped: the bytes could be written to pass for an answer. (aiohttp's client
    notices those that came with the head only.)"""

    async def script(incoming) -> None:
        await incoming.request()
        if incoming.number > 1:
            await incoming.send(LENGTH)
        elif late:
            await incoming.send(head)
            await incoming.send(forged)
        else:
            await incoming.send(head + forged)
        await incoming.gone()

    async with talk_to("ours", script) as (client, server):
        assert await get(client, "HEAD") == (200, b"")
        for _ in range(20):
            await asyncio.sleep(0)
        assert await get(client) == (200, b"hello")
        assert server.connections == 2
