"""Pouring a body into a sink: all that reading it would give, as it comes in, no faster than the sink takes it."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.upstream.interface import UpstreamFailure

from tests.fakes.upstream_server import CLIENTS, once, talk_to

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Cup:
    """A sink that says when it is full."""

    def __init__(self) -> None:
        self.got = b""
        self.pieces = 0
        self.room: asyncio.Future[None] | None = None
        self.spills: Exception | None = None

    def __call__(self, data: bytes) -> asyncio.Future[None] | None:
        if self.spills is not None:
            raise self.spills
        self.got += data
        self.pieces += 1
        return self.room


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_body_is_poured_whole_wherever_it_is_cut(kind):
    wire = HEAD + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + b"0\r\n\r\n"
    for n in range(1, len(wire)):
        async with talk_to(kind, once(wire[:n], wire[n:])) as (client, _):
            cup = Cup()
            answer = await client.send("GET", "/v1/models", [], None)
            await answer.pour(cup)
            answer.close()
            assert cup.got == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("kind", CLIENTS)
async def test_what_was_read_before_is_not_poured_again(kind):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD + chunk(b"first"))
        await asyncio.sleep(0.02)
        await incoming.send(chunk(b"second"), b"0\r\n\r\n")

    async with talk_to(kind, script) as (client, _):
        answer, cup = await client.send("GET", "/v1/models", [], None), Cup()
        assert await answer.chunk() == b"first"
        await answer.pour(cup)
        assert cup.got == b"second"


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_full_sink_gets_nothing_more_until_it_has_room(kind):
    more, said = asyncio.Event(), asyncio.Event()

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD + chunk(b"a"))
        await more.wait()
        await incoming.send(chunk(b"b"), chunk(b"c"), b"0\r\n\r\n")
        said.set()

    async with talk_to(kind, script) as (client, _):
        cup = Cup()
        cup.room = asyncio.get_running_loop().create_future()
        answer = await client.send("GET", "/v1/models", [], None)
        pouring = asyncio.create_task(answer.pour(cup))
        while not cup.got:
            await asyncio.sleep(0)
        more.set()
        await said.wait()
        await asyncio.sleep(0.02)
        assert cup.got == b"a"
        room, cup.room = cup.room, None
        room.set_result(None)
        await pouring
        assert cup.got == b"abc"


@pytest.mark.parametrize("kind", CLIENTS)
async def test_what_the_sink_raises_is_raised(kind):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD + chunk(b"a"))
        await incoming.gone()

    async with talk_to(kind, script) as (client, _):
        cup = Cup()
        cup.spills = ConnectionResetError("the client has left")
        answer = await client.send("GET", "/v1/models", [], None)
        with pytest.raises(ConnectionResetError, match="the client has left"):
            await answer.pour(cup)
        answer.close()


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_body_that_breaks_off_fails_after_what_there_was(kind):
    async with talk_to(kind, once(HEAD + chunk(b"a"))) as (client, _):
        cup = Cup()
        answer = await client.send("GET", "/v1/models", [], None)
        with pytest.raises(UpstreamFailure):
            await answer.pour(cup)
        assert cup.got == b"a"


@pytest.mark.asyncio(loop_factories=["asyncio"])  # whose clock can be set
@pytest.mark.parametrize("kind", CLIENTS)
async def test_silence_between_pieces_ends_it(kind, virtual_time):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD + chunk(b"a"))
        for _ in range(4):
            await asyncio.sleep(0.06)
            await incoming.send(chunk(b"b"))
        await incoming.gone()

    async with talk_to(kind, script, between_bytes=0.15) as (client, _):
        virtual_time.waits_for_tcp()
        cup = Cup()
        answer = await client.send("GET", "/v1/models", [], None)
        with pytest.raises(UpstreamFailure) as caught:
            await answer.pour(cup)
        assert caught.value.reason == "timeout"
        assert cup.got == b"abbbb"  # each piece begins the wait anew
        answer.close()


async def test_a_piece_wakes_no_task_of_our_client():
    """The connection itself calls the sink: a task that pours sleeps until the end."""
    pieces = 20

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD + chunk(b"."))
        for _ in range(pieces):
            await asyncio.sleep(0.005)
            await incoming.send(chunk(b"x"))
        await incoming.send(b"0\r\n\r\n")

    async with talk_to("ours", script) as (client, _):
        cup = Cup()
        answer = await client.send("GET", "/v1/models", [], None)
        waits = 0
        wait = type(answer)._wait

        async def counted(self, deadline):
            nonlocal waits
            waits += 1
            await wait(self, deadline)

        try:
            type(answer)._wait = counted
            await answer.pour(cup)
        finally:
            type(answer)._wait = wait
        assert cup.got == b"." + b"x" * pieces
        assert cup.pieces > pieces / 2
        assert waits <= 2
