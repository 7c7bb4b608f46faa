"""HTTP itself: connections, lengths, chunks, HEAD, 204, old clients, and requests built to be misread."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.fakes.wire import OK, Incoming, parse_head, post

CHAT = b'{"model": "gpt-4o", "messages": []}'


def fields(head: bytes) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_head(head)[1]}


async def test_a_connection_serves_one_request_after_another(wire):
    client = await wire.connect()
    for n in range(3):
        await client.send(post(CHAT, f"X-N: {n}"))
        head, body = await client.answer()
        assert (head[:12], body) == (b"HTTP/1.1 200", b"{}")
    assert wire.upstream.connections == 1  # and so does the one to upstream


async def test_pipelined_requests_are_answered_in_order(wire):
    async def script(request: Incoming) -> None:
        n = 0
        while True:
            await request.rest()
            n += 1
            await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + str(n).encode())
            request.head = await request.reader.readuntil(b"\r\n\r\n")

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(post(CHAT) * 3)
    assert [(await client.answer())[1] for _ in range(3)] == [b"1", b"2", b"3"]


async def test_each_answer_names_its_request(wire):
    first, _ = await wire.ask(post(CHAT))
    second, _ = await wire.ask(post(b"no json"))
    ids = {fields(first)["x-quotapool-request-id"], fields(second)["x-quotapool-request-id"]}
    assert len(ids) == 2
    assert {trip.id for trip in wire.ends.trips} == ids


# ---- bodies


async def test_a_chunked_request_is_read_whole(wire):
    chunks = b"5\r\n" + CHAT[:5] + b"\r\n" + f"{len(CHAT) - 5:X}".encode() + b";ext=1\r\n" + CHAT[5:] + b"\r\n0\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer, _ = await wire.ask(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
    arrived = wire.upstream.requests[0]
    assert arrived.endswith(b"\r\n\r\n" + CHAT)
    assert f"Content-Length: {len(CHAT)}".encode() in arrived


async def test_an_upload_flows_through_before_its_end(wire):
    """A file is not collected first: upstream has its beginning while the client still sends."""
    seen = asyncio.Event()

    async def script(request: Incoming) -> None:
        assert await request.reader.readexactly(4) == b"abcd"
        seen.set()
        assert await request.reader.readexactly(4) == b"efgh"
        await request.send(OK)
        await request.gone()

    wire.upstream.script = script
    client = await wire.connect()
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    await client.send(head + b"Content-Length: 8\r\n\r\nabcd")
    async with asyncio.timeout(30):
        await seen.wait()
    await client.send(b"efgh")
    answer, _ = await client.answer()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert fields(wire.upstream.requests[0])["content-length"] == "8"


async def test_an_upload_without_a_length_stays_without_one(wire):
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    await wire.ask(head + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n")
    arrived, _, body = wire.upstream.requests[0].partition(b"\r\n\r\n")
    assert fields(arrived + b"\r\n\r\n").get("transfer-encoding") == "chunked"
    assert body == b"4\r\nabcd\r\n0\r\n\r\n"


async def test_upstream_may_answer_before_the_upload_has_ended(wire):
    """If upstream refuses a file at its first bytes, I expect the client to hear it then, and not a timeout later."""

    async def script(request: Incoming) -> None:
        await request.reader.readexactly(4)
        await request.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    wire.upstream.script = script
    client = await wire.connect()
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    await client.send(head + b"Content-Length: 100000000\r\n\r\nabcd")
    answer, body = await client.answer()
    assert (answer[:12], body) == (b"HTTP/1.1 413", b"{}")
    client.close()
    wire.upstream.script = None
    answer, _ = await wire.ask(post(CHAT))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert wire.house.grants.settled.total() == 2


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_body_larger_than_allowed_is_refused_before_it_was_read(wire, length):
    wire.house.configure(wire.house.settings.model_copy(update={"max_json_body": 1000}))
    client = await wire.connect()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    await client.send(head + length + (b"FFFF\r\n" + b"x" * 2000 if b"chunked" in length else b""))
    answer, body = await client.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body)["error"]["code"] == "body_too_large"
    assert wire.upstream.requests == []


# ---- Expect: 100-continue


async def test_a_client_that_asks_first_is_told_to_go_on(wire):
    client = await wire.connect()
    whole = post(CHAT, "Expect: 100-continue")
    await client.send(whole.removesuffix(CHAT))
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(CHAT)
    answer, _ = await client.answer()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"expect" not in wire.upstream.requests[0].lower()
    await client.send(post(CHAT))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_asks_first_can_be_refused_without_sending(wire):
    """The connection ends with that: its next bytes could be the body or a new request, and nobody could tell."""
    client = await wire.connect()
    await client.send(post(CHAT, "Expect: 100-continue", target="/v2/nothing").removesuffix(CHAT))
    answer, _ = await client.answer()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert fields(answer)["connection"] == "close"


# ---- answers


async def test_a_head_request_gets_a_length_and_no_body(wire):
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
    client = await wire.connect()
    await client.send(b"HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert fields(await client.head())["content-length"] == "1234"
    wire.upstream.answer = OK
    await client.send(post(CHAT))
    assert (await client.answer())[1] == b"{}"


@pytest.mark.parametrize("status", [b"204 No Content", b"204 No Content\r\nContent-Length: 0", b"304 Not Modified"])
async def test_an_answer_without_a_body_leaves_the_connection_usable(wire, status):
    wire.upstream.answer = b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n"
    client = await wire.connect()
    for _ in range(2):
        await client.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 " + status[:14])
        assert "transfer-encoding" not in fields(head)
        assert "content-length" not in fields(head)


async def test_an_answer_without_a_length_is_chunked(wire):
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    head, body = await wire.ask(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert fields(head)["transfer-encoding"] == "chunked"
    assert b"".join(body.split(b"\r\n")[1::2]) == b"abcde"


async def test_an_old_client_gets_the_end_of_the_connection_as_the_end_of_the_body(wire):
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    client = await wire.connect()
    await client.send(b"GET /v1/files/file-1/content HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = (await client.to_the_end()).partition(b"\r\n\r\n")
    assert body == b"abc"
    assert fields(head + b"\r\n\r\n")["connection"] == "close"
    assert b"chunked" not in head


async def test_an_old_client_may_keep_its_connection_where_the_length_is_known(wire):
    client = await wire.connect()
    for _ in range(2):
        await client.send(b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        head, body = await client.answer()
        assert (fields(head)["connection"], body) == ("keep-alive", b"{}")
    await client.send(b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert (await client.to_the_end()).endswith(b"{}")


async def test_while_draining_each_answer_ends_its_connection(wire):
    wire.handler.draining = True
    client = await wire.connect()
    await client.send(post(CHAT))
    answer = await client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close\r\n" in answer


async def test_a_fault_of_our_own_is_a_500_in_openais_shape(wire):
    class Broken:
        async def send(self, *_):
            raise ValueError("a bug")

    wire.house.configure(upstream=Broken())
    head, body = await wire.ask(post(CHAT))
    assert head.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert fields(head)["x-should-retry"] == "false"
    assert b"a bug" not in body
    assert wire.house.is_idle()


async def test_a_client_that_is_found_gone_gets_no_second_answer_and_no_traceback(wire, caplog):
    class FindsItGone:
        async def send(self, *_):
            raise ConnectionResetError("Cannot write to closing transport")

    wire.house.configure(upstream=FindsItGone())
    client = await wire.connect()
    await client.send(post(CHAT))
    assert await client.to_the_end() == b""
    assert (wire.ends.trips[0].status, wire.ends.trips[0].cut) == (499, True)
    assert caplog.records == []


# ---- requests built to be misread

SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Smuggled: 1\r\n\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MISREAD = {
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
    "a list of lengths": HEAD + b"Content-Length: 0, 60\r\n\r\n",
    "a signed length": HEAD + b"Content-Length: +5\r\n\r\nabcde",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "a length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\nabcdeabcde",
    "an unknown transfer encoding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, but not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": HEAD + b"X-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a folded transfer encoding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a NUL in a header": HEAD + b"X-A: a\x00b\r\n\r\n",
    "a bare CR in a header": HEAD + b"X-A: a\rContent-Length: 5\r\n\r\n",
    "a header without a name": HEAD + b": x\r\n\r\n",
    "an odd method": b"GE T /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an odd version": b"GET /v1/models HTTP/1.1x\r\nHost: localhost\r\n\r\n",
    "a chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a negative chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n",
    "a chunk size with 0x": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n",
    "a chunk longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", MISREAD.values(), ids=MISREAD.keys())
async def test_what_two_servers_could_read_differently_is_refused_and_ends_the_connection(wire, data):
    client = await wire.connect()
    await client.send(data + SMUGGLED)
    answer = await client.to_the_end()
    assert answer.split()[1] == b"400"
    assert b'"code":"invalid_http"' in answer
    assert answer.count(b"\r\n\r\n") == 1
    assert not any(b"X-Smuggled" in request for request in wire.upstream.requests)
    assert wire.house.is_idle()


async def test_a_broken_upload_is_the_clients_fault_and_upstream_sees_no_clean_end(wire, caplog):
    ended_cleanly = asyncio.Event()

    async def script(request: Incoming) -> None:
        if (await request.reader.read()).endswith(b"0\r\n\r\n"):
            ended_cleanly.set()

    wire.upstream.script = script
    client = await wire.connect()
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
    await asyncio.sleep(0.02)
    await client.send(b"zz\r\n" + SMUGGLED)
    answer = await client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"\r\n\r\n") == 1
    assert not ended_cleanly.is_set()
    assert len(wire.upstream.requests) == 1
    assert caplog.records == []  # anyone can send this: no traceback, and none of the client's bytes


# ---- connections that say nothing


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server waits for ten seconds
async def test_a_refused_upload_gets_its_answer_and_the_connections_end_at_once(wire):
    """Given a client that is still sending when it is refused, I expect that it can read why."""
    client = await wire.connect()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    await client.send(head + b"Content-Length: 999999999\r\n\r\n" + b"x" * 100_000)
    async with asyncio.timeout(30):
        answer = await client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"\r\n\r\n") == 1


UNREAD = b"POST /v2/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server reads the body to its end and goes on
@pytest.mark.parametrize(
    ("framing", "rest"),
    [
        (b"Content-Length: 5\r\n\r\nab", b"cde"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"3\r\ncde\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"zz\r\n"),
    ],
    ids=["length", "chunks", "broken chunks"],
)
async def test_after_an_answer_that_came_before_the_end_of_the_body_nothing_more_is_served(wire, framing, rest):
    """The answer announces that the connection closes: whatever else comes is neither a request nor answered."""
    client = await wire.connect()
    await client.send(UNREAD + framing)
    answer, _ = await client.answer()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert fields(answer)["connection"] == "close"
    with contextlib.suppress(ConnectionError):
        await client.send(rest + SMUGGLED)
    assert await client.to_the_end() == b""
    assert wire.upstream.requests == []
    assert len(wire.ends.trips) == 1


# ---- what is not HTTP/1.0 or 1.1, and what may be said only once

HOST = b"Host: localhost\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NOT_HTTP_1 = {
    "HTTP/2.0": (b"GET /v1/models HTTP/2.0\r\n" + HOST, 505),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /v1/models HTTP/0.9\r\n" + HOST, 505),
    "HTTP/1.2": (b"GET /v1/models HTTP/1.2\r\n" + HOST, 505),
    "HTTP/3.0": (b"GET /v1/models HTTP/3.0\r\n" + HOST, 505),
    "RTSP/1.0": (b"GET /v1/models RTSP/1.0\r\n" + HOST, 400),
    "RTSP/1.1": (b"OPTIONS /v1/models RTSP/1.1\r\n" + HOST, 400),
    "ICE/1.0": (b"SOURCE /v1/models ICE/1.0\r\n" + HOST, 400),
    "no version": (b"GET /v1/models\r\n" + HOST, 400),
    "lower case": (b"GET /v1/models http/1.1\r\n" + HOST, 400),
    "two spaces": (b"GET  /v1/models HTTP/1.1\r\n" + HOST, 400),
    "a space in the target": (b"GET /v1/mod els HTTP/1.1\r\n" + HOST, 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    "two hosts": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nhost: localhost\r\n\r\n", 400),
    "two hosts of an old client": (b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "chunks of an old client": (
        b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n23\r\n" + CHAT + b"\r\n0\r\n\r\n",
        400,
    ),
    "two hosts of a session": (
        b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n" + UPGRADE,
        400,
    ),
}


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server takes some of them
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("case", NOT_HTTP_1)
async def test_what_is_not_http_1_is_refused_at_once_and_ends_the_connection(wire, case, step):
    """Whole and in pieces; and what comes behind it is nobody's request."""
    data, status = NOT_HTTP_1[case]
    client = await wire.connect()
    for at in range(0, len(data), step):
        client.writer.write(data[at : at + step])
        await asyncio.sleep(0)
    if status == 505 or not data.startswith(b"\x16"):
        client.writer.write(SMUGGLED)
    answer = await client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"\r\n\r\n") == 1
    assert wire.upstream.requests == []
