"""Long reads take turns: nobody waits for more than a step of somebody else's."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from quotapool.upstream import turns as module
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.connection import UpstreamConnection
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.turns import Turns

from tests.fakes.upstream_server import CLIENTS, once, talk_to
from tests.upstream.test_pouring import Cup

EVENTS = b"data: {}\n\n" * 100_000  # a megabyte
STEP = 2**14


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes all the time there is in a turn."""
    monkeypatch.setattr(module.time, "perf_counter", itertools.count().__next__)


@pytest.mark.usefixtures("no_time")
async def test_steps_of_many_come_one_after_another_with_the_loops_turns_between():
    turns, done = Turns(), []
    left = {"a": 3, "b": 1, "c": 2}

    def step(name: str) -> bool:
        done.append(name)
        left[name] -= 1
        return left[name] > 0

    steps = {name: (lambda name=name: step(name)) for name in left}
    for name in left:
        turns.add(steps[name])
    turns.add(steps["a"])  # waits already
    for _ in range(6):
        await asyncio.sleep(0)
        done.append("loop")
    assert done == ["a", "loop", "b", "loop", "c", "loop", "a", "loop", "c", "loop", "a", "loop"]


@pytest.mark.usefixtures("no_time")
async def test_a_step_that_raises_takes_no_turn_from_the_others():
    turns, done, told = Turns(), [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    turns.add(lambda: 1 // 0 == 0)
    turns.add(lambda: done.append("other") or False)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (done, told) == (["other"], [ZeroDivisionError])


async def test_quick_steps_share_a_turn():
    turns, done = Turns(), []
    for name in "abc":
        turns.add(lambda name=name: done.append(name) or False)
    await asyncio.sleep(0)
    assert done == ["a", "b", "c"]


@pytest.mark.usefixtures("no_time")
async def test_an_answer_that_comes_faster_than_it_is_read_lets_others_have_their_turn():
    async with talk_to("ours", once(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS)) as (
        client,
        _,
    ):
        answer, cup, ticks = await client.send("GET", "/v1/models", [], None), Cup(), 0

        async def others() -> None:
            nonlocal ticks
            while len(cup.got) < len(EVENTS):
                ticks += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        sizes: list[int] = []
        await answer.pour(lambda data: sizes.append(len(data)) or cup(data))
        await beside
        assert cup.got == EVENTS
        assert max(sizes) <= 5 * STEP  # what had come before anybody took it, and one step
        assert ticks >= len(EVENTS) // (5 * STEP)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("end", ["length", "chunks", "close"])
async def test_a_long_answer_is_whole_however_it_ends(kind, end):
    heads = {
        "length": b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS,
        "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS),
        "close": b"Connection: close\r\n\r\n" + EVENTS,
    }
    async with talk_to(kind, once(b"HTTP/1.1 200 OK\r\n" + heads[end])) as (client, _):
        answer, cup = await client.send("GET", "/v1/models", [], None), Cup()
        await answer.pour(cup)
        assert cup.got == EVENTS


async def test_what_comes_behind_a_long_answer_is_never_the_next_ones():
    long = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (10 * STEP) + b"x" * (10 * STEP)
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    for more in (forged, b"y" * (2 * STEP) + forged):
        served = 0

        async def script(incoming, more=more) -> None:
            nonlocal served
            await incoming.request()
            served += 1
            await incoming.send(long + more if served == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")

        async with talk_to("ours", script) as (client, _):
            for expected in (long[-10 * STEP :], b"true"):
                answer, cup = await client.send("GET", "/v1/models", [], None), Cup()
                await answer.pour(cup)
                assert cup.got == expected


class Wire(asyncio.Transport):
    """A network that takes everything."""

    aborted = False

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Waiting:
    """An owner with a request that takes the connection as soon as it is free."""

    next: StreamedAnswer | None = None

    def answered(self, connection: UpstreamConnection) -> None: ...

    def free(self, connection: UpstreamConnection) -> None:
        self.next = connection.request("GET", b"GET /v1/models HTTP/1.1\r\n\r\n", None, None)

    def gone(self, connection: UpstreamConnection) -> None: ...


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("more", [0, 1])
async def test_an_answer_that_ends_with_a_step_frees_its_connection_only_if_nothing_is_behind_it(steps, more):
    owner = Waiting()
    connection = UpstreamConnection(asyncio.get_running_loop(), owner, Timeouts(5, 5, 5), Turns())
    connection.connection_made(Wire())
    first = connection.request("GET", b"GET /v1/models HTTP/1.1\r\n\r\n", None, None)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    body = b"x" * (steps * STEP - len(head % STEP))
    answer = head % len(body) + body
    assert len(answer) == steps * STEP
    connection.data_received(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged" * more)
    got = b""
    while piece := await first.chunk():
        got += piece
    assert got == body
    assert (owner.next is None) == connection.transport.is_closing() == bool(more)


async def test_a_sink_that_is_full_gets_nothing_more_of_what_is_here():
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS
    async with talk_to("ours", once(wire)) as (client, _):
        answer, cup = await client.send("GET", "/v1/models", [], None), Cup()
        cup.room = asyncio.get_running_loop().create_future()
        pouring = asyncio.create_task(answer.pour(cup))
        await asyncio.sleep(0.05)
        first = len(cup.got)
        await asyncio.sleep(0.05)
        assert len(cup.got) == first <= 5 * STEP
        room, cup.room = cup.room, None
        room.set_result(None)
        await pouring
        assert cup.got == EVENTS
