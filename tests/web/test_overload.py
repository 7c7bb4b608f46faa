"""A worker that is full says so at once: 503 with its own code, before it reads what is sent."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.sessions import Refused, open_sessions
from tests.fakes.wire import OK, Incoming, parse_head, post

CHAT = b'{"model": "gpt-4o", "messages": []}'


@pytest.fixture
def full(wire):
    """A worker that holds two requests at once, and an upstream that answers when it is let."""
    go_on = asyncio.Event()

    async def script(request: Incoming) -> None:
        while True:
            await request.rest()
            await go_on.wait()
            await request.send(OK)
            request.head = await request.reader.readuntil(b"\r\n\r\n")

    wire.upstream.script = script
    wire.handler.max_concurrent = 2
    wire.go_on = go_on
    return wire


async def hold(wire, count: int) -> list:
    """Clients whose requests are under way."""
    before, clients = wire.handler.open, [await wire.connect() for _ in range(count)]
    for client in clients:
        await client.send(post(CHAT))
    async with asyncio.timeout(2):
        while wire.handler.open < before + count:
            await asyncio.sleep(0.001)
    return clients


async def test_one_request_too_many_is_refused_and_the_others_are_served(full):
    held = await hold(full, 2)
    head, body = await full.ask(post(CHAT))
    fields = {name.lower(): value for name, value in parse_head(head)[1]}
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"]["code"] == "proxy_overloaded"
    assert (fields["retry-after"], fields["x-should-retry"]) == ("1", "true")
    assert fields["x-quotapool-source"] == "proxy"
    full.go_on.set()
    for client in held:
        assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
    # There is room again, and the refusal was counted under its code like any other.
    assert (await full.ask(post(CHAT)))[0].startswith(b"HTTP/1.1 200 ")
    assert [trip.code for trip in full.ends.trips].count("proxy_overloaded") == 1


async def test_the_refusal_does_not_wait_for_the_body(full):
    """Nor is it read: a hundred megabytes were announced, and a few bytes of them sent."""
    await hold(full, 2)
    client = await full.connect()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n{")
    async with asyncio.timeout(2):
        head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 503 ")
    full.go_on.set()


async def test_a_refusal_frees_no_place_and_takes_none(full):
    await hold(full, 2)
    for _ in range(5):
        assert (await full.ask(post(CHAT)))[0].startswith(b"HTTP/1.1 503 ")
        assert full.handler.open == 2
    full.go_on.set()


async def test_sessions_count_too(valkey_url):
    async with open_sessions(valkey_url, {"a": 1}) as hall:
        hall.handler.max_concurrent = 1
        await hall.pair()
        with pytest.raises(Refused) as refused:
            await hall.pair()
    assert refused.value.status == 503
