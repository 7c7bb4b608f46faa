"""With finish_cut_streams a stream whose client has left is read to its end, so that its usage is exact."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.edge import DONE, Client, chat_body, delta, failure, stream, usage_chunk
from tests.fakes.house import House, open_house

HELLO = delta(content="Hello")


@pytest.fixture
async def house(valkey_url):
    async with open_house(valkey_url, {"a": 1}, finish_cut_streams=True) as opened:
        yield opened


def leaving(**more) -> Client:
    return Client(chat_body(stream=True), leaves_at=1, **more)


async def left(house: House) -> None:
    with pytest.raises(ConnectionResetError):
        await house.ask(leaving())


async def test_the_usage_that_comes_after_the_client_has_left_settles_the_budget(house):
    gate = asyncio.Event()
    house.upstream.next(stream(HELLO, HELLO, gate, HELLO, usage_chunk(10, 20), DONE))
    await left(house)
    assert house.upstream.open == 1  # still being read
    assert await house.taken("a") == (1, 1000)  # as reserved
    gate.set()
    await asyncio.gather(*house.paths.reading_on.tasks)
    await house.quiet()
    assert await house.taken("a") == (1, 30)
    assert [(leg.outcome, leg.usage.total) for leg in house.recorder.legs] == [("cancelled", 30)]
    assert house.is_idle()


async def test_a_stream_that_breaks_off_then_keeps_what_was_reserved(house):
    house.upstream.next(stream(HELLO, HELLO, HELLO, failure("reset")))
    await left(house)
    await asyncio.gather(*house.paths.reading_on.tasks)
    await house.quiet()
    assert await house.taken("a") == (1, 1000)
    assert house.is_idle()


async def test_it_is_not_read_forever(house):
    house.upstream.next(stream(HELLO, HELLO, asyncio.Event()))
    await left(house)
    await asyncio.gather(*house.paths.reading_on.tasks)
    await house.quiet()
    assert house.is_idle()


async def test_a_stop_lets_go_of_it_and_settles(house):
    house.upstream.next(stream(HELLO, HELLO, asyncio.Event()))
    await left(house)
    await house.paths.reading_on.close()
    await house.quiet()
    assert house.is_idle()
    assert await house.taken("a") == (1, 1000)


async def test_without_the_option_it_ends_at_once(valkey_url):
    async with open_house(valkey_url, {"a": 1}) as house:
        house.upstream.next(stream(HELLO, HELLO, asyncio.Event()))
        await left(house)
        assert house.paths.reading_on.tasks == set()
        assert house.is_idle()


async def test_a_client_that_stays_is_served_as_ever(house):
    house.upstream.next(stream(HELLO, usage_chunk(10, 20), DONE))
    client = await house.ask(Client(chat_body(stream=True)))
    assert client.got == HELLO + DONE
    assert house.paths.reading_on.tasks == set()
    assert house.is_idle()
