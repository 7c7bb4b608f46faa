"""A limit on connections to one upstream: the one too many waits in line, as long as for an answer, and no longer."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.upstream.connection_limit import ConnectionLimit
from quotapool.upstream.interface import Timeouts, UpstreamFailure

from tests.fakes.upstream_server import CLIENTS, ScriptedServer, get, whole
from tests.fakes.valkey import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
TIMES = Timeouts(2.0, 2.0, 2.0)


class Counter(ScriptedServer):
    """Answers when it is let, and knows how many were served at once, and in which order they came."""

    def __init__(self, answer: bytes = OK) -> None:
        self.now = self.most = 0
        self.came: list[bytes] = []
        self.go_on = asyncio.Event()
        self._answer = answer
        super().__init__(self._serve)

    async def _serve(self, incoming) -> None:
        while True:
            head = await incoming.request()
            self.came.append(head.split(b" ")[1])
            self.now += 1
            self.most = max(self.most, self.now)
            await self.go_on.wait()
            await asyncio.sleep(0)
            self.now -= 1
            await incoming.send(self._answer)
            if self._answer is LAST:
                return


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [OK, LAST], ids=["connections are kept", "connections are closed"])
async def test_no_more_connections_than_allowed_and_everybody_is_served(kind, answer):
    server = Counter(answer)
    client = CLIENTS[kind](f"http://127.0.0.1:{await server.start()}", TIMES, most=3)
    asked = [asyncio.create_task(get(client)) for _ in range(20)]
    await until(lambda: server.now == 3)
    await turns()
    assert server.most == 3
    server.go_on.set()
    assert await asyncio.gather(*asked) == [(200, b"hello")] * 20
    assert server.most == 3
    if answer is OK:
        assert server.connections == 3
    await client.close()
    await server.stop()


async def test_who_waits_is_served_in_order(kind):
    server = Counter()
    client = CLIENTS[kind](f"http://127.0.0.1:{await server.start()}", TIMES, most=1)

    async def ask(n: int) -> None:
        await whole(await client.send("GET", f"/{n}", [], None))

    asked = []
    for n in range(6):
        asked.append(asyncio.create_task(ask(n)))
        await turns(5)
    server.go_on.set()
    await asyncio.gather(*asked)
    assert server.came == [b"/%d" % n for n in range(6)]
    await client.close()
    await server.stop()


async def test_who_waits_in_vain_for_a_connection_has_sent_nothing():
    """(aiohttp's client cannot tell that nothing was sent.)"""
    server = Counter(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello")
    server.go_on.set()
    client = CLIENTS["ours"](f"http://127.0.0.1:{await server.start()}", Timeouts(2.0, 0.05, 2.0), most=1)
    first = await client.send("GET", "/", [], None)  # its body goes on and on
    with pytest.raises(UpstreamFailure) as failed:
        await get(client)
    assert (failed.value.reason, failed.value.sent) == ("timeout", False)
    first.close()
    await client.close()
    await server.stop()


@pytest.mark.parametrize("when", ["waits", "is being served"])
async def test_who_leaves_the_line_keeps_nobody_from_their_turn(kind, when):
    server = Counter()
    client = CLIENTS[kind](f"http://127.0.0.1:{await server.start()}", TIMES, most=1)
    first = asyncio.create_task(get(client))
    await until(lambda: server.now == 1)
    leaving = [asyncio.create_task(get(client)) for _ in range(3)]
    last = asyncio.create_task(get(client))
    await turns()
    if when == "waits":
        for task in leaving:
            task.cancel()
    server.go_on.set()
    await first  # and in this very turn of the loop its connection goes to the next one
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert await last == (200, b"hello")
    assert await get(client) == (200, b"hello")
    await client.close()
    await server.stop()


async def test_failed_connects_give_their_place_back(kind):
    client = CLIENTS[kind](f"http://127.0.0.1:{free_port()}", TIMES, most=2)
    for _ in range(3):
        failures = await asyncio.gather(*(get(client) for _ in range(5)), return_exceptions=True)
        assert [getattr(failure, "reason", "") for failure in failures] == ["connect"] * 5
    await client.close()


async def test_answers_that_nobody_reads_to_the_end_give_their_place_back(kind):
    server = Counter(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello")
    server.go_on.set()
    client = CLIENTS[kind](f"http://127.0.0.1:{await server.start()}", TIMES, most=2)
    for _ in range(6):
        answer = await client.send("GET", "/", [], None)
        answer.close()
    await client.close()
    await server.stop()


async def test_closing_the_client_ends_the_line():
    """(aiohttp's client leaves them waiting.)"""
    server = Counter()
    client = CLIENTS["ours"](f"http://127.0.0.1:{await server.start()}", TIMES, most=1)
    asked = [asyncio.create_task(get(client)) for _ in range(4)]
    await until(lambda: server.now == 1)
    await client.close()
    async with asyncio.timeout(30):
        failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(failure, UpstreamFailure) for failure in failures] == [True] * 4
    await server.stop()


# ---- the line itself, where a turn comes to nobody


async def in_line(line: ConnectionLimit[str]) -> asyncio.Task[str | None]:
    waiting = asyncio.create_task(line.wait(None))
    await asyncio.sleep(0)
    assert line.waiting == 1
    return waiting


async def test_a_connection_given_to_one_who_has_just_left_is_given_back():
    back: list[str] = []
    line: ConnectionLimit[str] = ConnectionLimit(1, back.append)
    assert await line.wait(None) is None
    waiting = await in_line(line)
    assert line.offer("it")
    waiting.cancel()  # before it could take it
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (back, line.taken, line.waiting) == (["it"], 1, 0)


async def test_a_place_given_to_one_who_has_just_left_is_free_again():
    line: ConnectionLimit[str] = ConnectionLimit(1, lambda _: None)
    assert await line.wait(None) is None
    waiting = await in_line(line)
    line.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (line.taken, line.waiting) == (0, 0)


async def test_who_left_the_line_is_passed_over():
    line: ConnectionLimit[str] = ConnectionLimit(1, lambda _: None)
    assert await line.wait(None) is None
    waiting = await in_line(line)
    waiting.cancel()
    assert not line.offer("it")  # in the same turn of the loop
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert line.waiting == 0
