"""Requests that ask for another protocol: anything but a WebSocket is answered as HTTP/1.1 (RFC 9110 §7.8)."""

from __future__ import annotations

import pytest

from tests.fakes.wire import post

CHAT = b'{"model": "gpt-4o", "messages": []}'
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")


async def test_a_client_that_offers_h2c_with_a_body_is_answered_in_http_1(wire):
    """As Java's HttpClient does with each request to an http:// address."""
    client = await wire.connect()
    for _ in range(2):
        await client.send(post(CHAT, *H2C))
        head, body = await client.answer()
        assert (head[:12], body) == (b"HTTP/1.1 200", b"{}")
        arrived = wire.upstream.requests[-1]
        assert arrived.endswith(b"\r\n\r\n" + CHAT)
        assert b"h2c" not in arrived
        assert b"http2-settings" not in arrived.lower()
    await client.send(post(CHAT))
    assert (await client.answer())[0][:12] == b"HTTP/1.1 200"


async def test_a_chunked_body_that_comes_after_such_a_head_is_read_whole(wire):
    fields = "".join(f"{field}\r\n" for field in H2C)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}"
    client = await wire.connect()
    await client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT))
    assert (await client.answer())[0][:12] == b"HTTP/1.1 200"
    assert wire.upstream.requests[0].endswith(b"\r\n\r\n" + CHAT)


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "foo/2, h2c"])
async def test_whatever_protocol_is_offered_without_a_body_the_answer_is_http_1(wire, protocol):
    client = await wire.connect()
    lines = f"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    for method in ("GET", "OPTIONS"):
        await client.send(f"{method} /v1/models HTTP/1.1\r\n{lines}".encode())
        assert (await client.answer())[0].startswith(b"HTTP/1.1 ")
    assert wire.upstream.requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server waits for the other protocol
async def test_requests_that_offer_h2c_can_be_pipelined(wire):
    client = await wire.connect()
    await client.send(post(CHAT, *H2C) * 3 + post(CHAT))
    assert [(await client.answer())[1] for _ in range(4)] == [b"{}"] * 4


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server waits for the other protocol
async def test_many_such_heads_at_once_are_no_burden(wire):
    """I expect neither an error nor a deep stack from a thousand of them in one piece."""
    client = await wire.connect()
    await client.send(b"OPTIONS /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" * 1000)
    for _ in range(1000):
        assert (await client.answer())[0].startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server waits for the other protocol
async def test_a_connect_request_is_answered_and_nothing_behind_it_is_read_as_http(wire):
    """CONNECT asks for a tunnel, and what a client sends into it is nobody's request."""
    client = await wire.connect()
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await client.send(b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n" + smuggled)
    answer = await client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert wire.upstream.requests == []
