"""A worker that is full says so at once: 503 with its own code, before it reads what is sent."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from quotapool.web.places import Places, address_of, network_of

from tests.fakes.sessions import Refused, open_sessions
from tests.fakes.wire import OK, Incoming, open_wire, parse_head, post

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
    async with asyncio.timeout(30):
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
    async with asyncio.timeout(30):
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


# ---- a share of the places for each client

KEYS = {"ann": "qp-ann-0123456789abcdef", "bob": "qp-bob-0123456789abcdef", "eve": "qp-eve-0123456789abcdef"}


async def test_a_client_that_takes_all_it_can_get_leaves_places_for_the_next_ones(valkey_url):
    """Of 16 places a client alone holds 12. The next one gets some of the other 4 and leaves one for the third."""
    clients = [{"id": name, "key": key} for name, key in KEYS.items()]
    async with open_wire(valkey_url, clients=clients) as wire:
        wire.handler.max_concurrent = 16
        refused = {}
        for name, key in KEYS.items():
            refused[name] = await hold_all(wire, f"Authorization: Bearer {key}", 20)
        assert refused["ann"] == 20 - 12
        assert refused["bob"] == 20 - 3  # his third while 2 are free, and no fourth for 1: 3 >= 3 x 1
        assert refused["eve"] == 20 - 1
        assert wire.handler.open == 16


async def hold_all(wire, field: str, count: int) -> int:
    """How many requests of these were refused; the bodies of the others never come."""
    refused = 0
    for _ in range(count):
        client = await wire.connect()
        before = wire.handler.open
        await client.send(post(b"x", field)[:-1])
        async with asyncio.timeout(30):
            while wire.handler.open == before and not client.reader._buffer:
                await asyncio.sleep(0.001)
        refused += bool(client.reader._buffer)
    return refused


def test_places_are_counted_again_as_they_come_and_go():
    """Against the definition: a place is given to who holds less than three times what is free."""
    rng = random.Random(13)
    for _ in range(50):
        most, held = rng.randint(1, 40), {name: [] for name in "abcd"}
        places = Places(lambda down: down[0])
        places.limit(most)
        for n in range(400):
            name = rng.choice("aaaabbcd")
            if rng.random() < 0.6:
                free = most - sum(map(len, held.values()))
                given = places.take((name, n))
                assert given == (len(held[name]) < 3 * free)
                if given:
                    held[name].append((name, n))
            elif held[name]:
                places.give_back(held[name].pop(rng.randrange(len(held[name]))))
            assert len(places) == sum(map(len, held.values()))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("10.0.0.1", 1), ("10.0.0.1", 2), True),
        (("10.0.0.1", 1), ("10.0.0.2", 1), False),
        (("::ffff:10.0.0.1", 1, 0, 0), ("10.0.0.1", 1), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::2:0:0:1", 1, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::1", 1, 0, 0), True),
        ("", None, True),
    ],
)
def test_callers_without_a_key_are_told_apart_by_their_network(one, other, same):
    assert (network_of(address_of(one)) == network_of(address_of(other))) is same
