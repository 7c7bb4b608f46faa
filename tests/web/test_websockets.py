"""WebSockets through the proxy: what one side says, the other side hears, and how a session ends on both."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.fakes.sessions import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Hall, Peer, Refused, open_sessions
from tests.fakes.wire import kernel_buffers

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000, 4999]


NESTED = b"HTTP/1.1 400 Bad\r\nContent-Length: 60010\r\n\r\n" + b'{"error":' + b"[" * 30_000 + b"]" * 30_000 + b"}"


@pytest.fixture
async def hall(valkey_url) -> AsyncIterator[Hall]:
    async with open_sessions(valkey_url, {"a": 1}) as opened:
        yield opened


# ---- messages


async def test_text_and_binary_pass_both_ways_as_the_bytes_they_are(hall):
    client, upstream = await hall.pair()
    texts = [b'{"type": "x",  "odd":"spacing"}', b"", "ünïcödé".encode(), b"\xff\xfe not utf-8", b"x" * 70_000]
    for text in texts:
        for opcode in (TEXT, BINARY):
            await client.send(opcode, text)
            assert await upstream.receive() == (opcode, text)
            await upstream.send(opcode, text)
            assert await client.receive() == (opcode, text)


async def test_fragments_arrive_as_one_message_with_pings_between_them(hall):
    client, upstream = await hall.pair()
    await client.send(TEXT, b"one ", final=False)
    await client.send(PING, b"?")
    await client.send(CONTINUATION, b"two ", final=False)
    await client.send(CONTINUATION, b"three")
    assert await upstream.receive() == (TEXT, b"one two three")
    assert await client.receive() == (PONG, b"?")


async def test_a_message_of_20_mib_passes_both_ways(hall):
    client, upstream = await hall.pair()
    large = bytes(range(256)) * (20 * 4096)
    sending = asyncio.create_task(client.send(BINARY, large))
    assert await upstream.receive() == (BINARY, large)
    await sending
    sending = asyncio.create_task(upstream.send(TEXT, large))
    assert await client.receive() == (TEXT, large)
    await sending


async def test_pings_are_answered_on_each_side_and_not_passed_on(hall):
    client, upstream = await hall.pair()
    for side in (client, upstream):
        await side.send(PING, b"are you there")
        assert await side.receive() == (PONG, b"are you there")
        await side.send(PONG, b"nobody asked")
    await client.send(TEXT, b"next")
    assert await upstream.receive() == (TEXT, b"next")


async def test_messages_that_come_with_upstreams_handshake_are_not_lost(hall):
    hall.upstream.behind = b"\x81\x05first\x81\x06second"
    client = await hall.connect()
    assert await client.receive() == (TEXT, b"first")
    assert await client.receive() == (TEXT, b"second")


async def test_messages_that_come_with_the_clients_handshake_are_not_lost(hall):
    client = await hall.ask("/v1/realtime", "X-Early: 1\r\nX-Then: 2")
    await client.raw(client.frame(TEXT, b"early") + client.frame(TEXT, b"bird"))
    upstream = await hall.upstream.accepted()
    assert [await upstream.receive(), await upstream.receive()] == [(TEXT, b"early"), (TEXT, b"bird")]


async def pushed(sender: Peer) -> int:
    """Bytes that go out until nobody takes any more for half a second."""
    piece, sent = bytes(2**16), 0
    try:
        while sent < kernel_buffers() + 200 * 2**20:
            sender.writer.write(sender.frame(BINARY, piece))
            sent += len(piece)
            async with asyncio.timeout(0.5):
                await sender.writer.drain()
    except TimeoutError:
        pass
    return sent


async def test_a_slow_client_slows_upstream_down_and_nothing_piles_up(hall):
    client, upstream = await hall.pair(receive_buffer=2**14)
    assert await pushed(upstream) < kernel_buffers() + 4 * 2**20  # and a few messages of ours
    await client.send(TEXT, b"the other way is free")
    assert await upstream.receive() == (TEXT, b"the other way is free")


async def test_a_slow_upstream_slows_the_client_down(hall):
    client, upstream = await hall.pair()
    upstream.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    upstream.reader._transport.pause_reading()
    assert await pushed(client) < kernel_buffers() + 4 * 2**20


async def test_a_message_beyond_the_limit_ends_the_session_on_both_sides(valkey_url):
    async with open_sessions(valkey_url, {"a": 1}, max_ws_message=1000) as hall:
        client, upstream = await hall.pair()
        await client.send(BINARY, bytes(1000))
        assert await upstream.receive() == (BINARY, bytes(1000))
        await client.raw(b"\x82\xfe\x03\xe9" + bytes(4))  # the head alone: 1,001 bytes
        assert (await client.closed())[0] == 1009
        assert (await upstream.closed())[0] == 1001
        client, upstream = await hall.pair()
        await upstream.send(TEXT, bytes(1001))
        assert (await client.closed())[0] == 1011
        assert (await upstream.closed())[0] == 1009


# ---- the end


@pytest.mark.parametrize("code", CODES)
async def test_a_close_passes_with_code_and_reason_and_so_does_its_answer(hall, code):
    client, upstream = await hall.pair()
    await client.close(code, "Grüße")
    assert await upstream.closed() == (code, "Grüße")
    await upstream.close(code, "so long")
    assert await client.closed() == (code, "so long")
    assert await client.ended()
    client, upstream = await hall.pair()
    await upstream.close(code, "enough")
    assert await client.closed() == (code, "enough")
    await client.close(code)
    assert await upstream.closed() == (code, "")
    assert await client.ended()
    assert await upstream.ended()


async def test_a_close_without_a_code_stays_one(hall):
    client, upstream = await hall.pair()
    await client.send(CLOSE)
    assert await upstream.closed() == (None, "")
    await upstream.send(CLOSE)
    assert await client.closed() == (None, "")


async def test_what_upstream_says_before_it_answers_a_close_still_arrives(hall):
    client, upstream = await hall.pair()
    await client.close(1000)
    await upstream.closed()
    await upstream.send(TEXT, b"one last thing")
    await upstream.close(1000)
    assert await client.receive() == (TEXT, b"one last thing")
    assert await client.closed() == (1000, "")


async def test_when_upstream_vanishes_the_client_is_told_to_connect_again(hall):
    client, upstream = await hall.pair()
    upstream.vanish()
    assert (await client.closed())[0] == 1011
    assert await client.ended()
    client, upstream = await hall.pair()
    upstream.writer.close()  # an end without a close frame, not a reset
    assert (await client.closed())[0] == 1011
    await hall.over()
    assert [trip.cut for trip in hall.ends.trips] == [True, True]


async def test_when_the_client_vanishes_upstream_hears_that_it_went_away(hall):
    client, upstream = await hall.pair()
    client.vanish()
    assert (await upstream.closed())[0] == 1001
    assert await upstream.ended()
    client, upstream = await hall.pair()
    client.writer.close()
    assert (await upstream.closed())[0] == 1001
    await hall.over()
    assert hall.house.recorder.sessions == {"a": 0}


@pytest.mark.parametrize(
    "frame", ["8100", "c180", "8380", "8080"], ids=["unmasked", "reserved", "unknown", "continued"]
)
async def test_a_client_that_breaks_the_protocol_is_told_so(hall, frame):
    client, upstream = await hall.pair()
    await client.raw(bytes.fromhex(frame) + bytes(4))
    assert (await client.closed())[0] == 1002
    assert (await upstream.closed())[0] == 1001


async def test_an_upstream_that_breaks_the_protocol_ends_the_session(hall):
    client, upstream = await hall.pair()
    await upstream.raw(bytes.fromhex("c100"))
    assert (await client.closed())[0] == 1011
    assert (await upstream.closed())[0] == 1002


# ---- the handshake


async def test_the_path_and_the_query_go_up_as_they_came(hall):
    await hall.pair("/v1/realtime?model=gpt-realtime&x=%41&call_id=")
    assert hall.upstream.requests[0][0] == "GET /v1/realtime?model=gpt-realtime&x=%41&call_id= HTTP/1.1"


async def test_upstream_sees_the_pools_key_and_never_the_clients(hall):
    offered = "realtime, openai-insecure-api-key.sk-the-clients-own, openai-organization.org-x, openai-beta.realtime-v1"
    hall.upstream.protocol = "realtime"
    hall.upstream.more = b"x-request-id: req_1\r\nOpenAI-Organization: org-pool\r\nSet-Cookie: a=b\r\n"
    fields = (
        f"Sec-WebSocket-Protocol: {offered}",
        "OpenAI-Organization: org-x",
        "Cookie: c=d",
        "OpenAI-Beta: realtime=v1",
    )
    client, upstream = await hall.pair("/v1/realtime?model=gpt-realtime", *fields, "X-Kept: yes")
    assert upstream.field("Authorization") == f"Bearer {hall.house.secrets['a1']}"
    assert upstream.field("Sec-WebSocket-Protocol") == "realtime, openai-beta.realtime-v1"
    assert (upstream.field("OpenAI-Beta"), upstream.field("X-Kept")) == ("realtime=v1", "yes")
    assert b"sk-the-clients-own" not in upstream.head
    assert (upstream.field("OpenAI-Organization"), upstream.field("Cookie")) == (None, None)
    assert client.field("Sec-WebSocket-Protocol") == "realtime"
    assert client.field("x-request-id") == "req_1"
    assert client.field("x-quotapool-request-id") is not None
    assert (client.field("OpenAI-Organization"), client.field("Set-Cookie")) == (None, None)


async def test_a_browser_that_offers_realtime_gets_it_even_where_upstream_chooses_nothing(hall):
    client, _ = await hall.pair("/v1/realtime", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.anything")
    assert client.field("Sec-WebSocket-Protocol") == "realtime"
    client, _ = await hall.pair("/v1/realtime")
    assert client.field("Sec-WebSocket-Protocol") is None


async def test_compression_is_agreed_on_with_nobody(hall):
    client, upstream = await hall.pair("/v1/realtime", "Sec-WebSocket-Extensions: permessage-deflate")
    assert upstream.field("Sec-WebSocket-Extensions") is None
    assert client.field("Sec-WebSocket-Extensions") is None


@pytest.mark.parametrize(
    "fields",
    [
        ("Sec-WebSocket-Version: 8",),
        ("Sec-WebSocket-Key: c2hvcnQ=",),
        ("Sec-WebSocket-Key: not base64!",),
        ("Sec-WebSocket-Key:",),
        ("Content-Length: 3",),
        ("Transfer-Encoding: chunked",),
    ],
)
async def test_a_handshake_that_is_none_is_refused_before_anything_is_spent(hall, fields):
    with pytest.raises(Refused) as refused:
        await hall.connect("/v1/realtime", *fields)
    assert refused.value.status == 400
    assert json.loads(refused.value.body)["error"]["code"] == "invalid_websocket"
    assert hall.upstream.requests == []
    assert hall.house.grants.granted == []


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v1/organization/usage", 403, "path_not_allowed"),
        ("/v1/dashboard/billing/credit_grants", 403, "path_not_allowed"),
        ("/v1/realtime/../organization/usage", 403, "path_not_allowed"),
        ("/realtime", 404, "path_not_found"),
    ],
)
async def test_paths_that_are_not_served_are_not_served_as_a_websocket_either(hall, target, status, code):
    with pytest.raises(Refused) as refused:
        await hall.connect(target)
    assert (refused.value.status, json.loads(refused.value.body)["error"]["code"]) == (status, code)
    assert hall.upstream.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        ("Authorization: Bearer ek_0123456789abcdef",),
        ("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.ek_0123456789abcdef",),
    ],
)
async def test_a_client_secret_of_openai_is_not_swapped_for_a_pool_key(hall, fields):
    with pytest.raises(Refused) as refused:
        await hall.connect("/v1/realtime", *fields)
    assert (refused.value.status, json.loads(refused.value.body)["error"]["code"]) == (401, "client_secret_sent")


async def test_a_connection_whose_handshake_is_refused_ends(hall):
    """What a client sends behind its handshake are frames, and must not be read as requests."""
    client = await hall.ask("/v1/realtime", "Sec-WebSocket-Version: 8")
    assert client.start.split()[1] == "400"
    assert client.field("Connection") == "close"
    await client.reader.readexactly(int(client.field("Content-Length") or 0))
    assert await client.ended()


async def test_any_future_path_can_be_a_websocket(hall):
    client, upstream = await hall.pair("/v1/live/sessions/sess_1/attach")
    await upstream.send(TEXT, b"hello")
    assert await client.receive() == (TEXT, b"hello")


@pytest.mark.parametrize(
    "behind",
    [b"\xf1\x00", b"\x81\x85abcdhello", b"\x82\x7f" + b"\xff" * 8, b"\x81\x01x\x80\x00"],
    ids=["reserved bits", "masked", "too long", "the second one"],
)
async def test_broken_frames_that_come_with_the_101_are_a_502_and_no_session(hall, caplog, behind):
    hall.upstream.behind = behind
    with pytest.raises(Refused) as refused:
        await hall.pair()
    assert refused.value.status == 502
    assert json.loads(refused.value.body)["error"]["code"] == "upstream_protocol_error"
    assert not [record for record in caplog.records if record.exc_info]
    await hall.over()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 For\x00bidden\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 403 Forbidden\r\nX: " + b"x" * 300_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        NESTED,
    ],
    ids=["NUL", "interim answers without end", "a long header", "nested"],
)
async def test_a_refusal_that_cannot_be_passed_on_is_a_502(hall, caplog, answer):
    hall.upstream.refusals = [answer] * 10
    with pytest.raises(Refused) as refused:
        await hall.pair()
    assert refused.value.status == 502
    assert not [record for record in caplog.records if record.exc_info]
