"""Clients that are slow, or do nothing more: each gets its answer or its connection ends, and none holds up others."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc

import pytest
from quotapool.upstream.interface import Timeouts
from quotapool.web.exchange import Exchange
from quotapool.web.server import Server, keep_alive

from tests.fakes.wire import OK, Incoming, RawClient, open_wire, post

CHAT = b'{"model": "gpt-4o", "messages": []}'
UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture
async def slow_wire(virtual_time, valkey_url):
    """Our server with `timeouts.client` of 3 s; upstream has ten minutes."""
    virtual_time.waits_for_tcp()
    async with open_wire(valkey_url, timeouts=Timeouts(2.0, 600.0, 600.0)) as opened:
        opened.server.client_s = 3.0
        yield opened


ours = pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server has no such limits


class Echo:
    """A server whose handler answers with the body, and has work to do after that: until `may_end`."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.most_queued = 0
        self.server = Server(self._answer)

    async def _answer(self, exchange: Exchange, _wanted: object) -> None:
        body = await exchange.read(2**20)
        await exchange.start(200, "", [], len(body))
        await exchange.write(body)
        await exchange.finish()
        await self.may_end.wait()

    async def listen(self) -> int:
        self.listening = await asyncio.get_running_loop().create_server(self.server, "127.0.0.1", 0)
        port: int = self.listening.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self.listening.close()
        await self.server.close()


@pytest.fixture
async def echo():
    made = Echo()
    yield made
    await made.close()


# ---- reading goes on whenever a body is due


async def test_a_request_whose_body_comes_late_is_answered_although_the_one_before_still_has_work_to_do(echo):
    client = await RawClient.to(await echo.listen())
    await client.send(post(b"one"))
    assert (await client.answer())[1] == b"one"
    whole = post(b"two")
    await client.send(whole[:-3])
    await asyncio.sleep(0.01)
    echo.may_end.set()
    await asyncio.sleep(0.01)
    await client.send(whole[-3:])
    assert (await client.answer())[1] == b"two"
    client.close()


@pytest.mark.parametrize("late", [1, 3, 20])
async def test_pipelined_requests_are_answered_when_the_last_bodys_end_comes_late(wire, late):
    client = await wire.connect()
    data = post(CHAT) * 3
    await client.send(data[:-late])
    await client.answer()
    await client.answer()
    await client.send(data[-late:])
    assert (await client.answer())[1] == b"{}"


async def test_a_large_body_behind_a_pipelined_head_is_read_to_its_end(echo):
    """More than what waits for its reader, so reading stops and goes on."""
    client = await RawClient.to(await echo.listen())
    echo.may_end.set()
    body = b"x" * 900_000
    await client.send(post(b"one") + post(body) + post(b"three"))
    assert [(await client.answer())[1] for _ in range(3)] == [b"one", body, b"three"]
    client.close()


# ---- what is pipelined is bounded, and answers that nobody reads end the connection


@ours
async def test_pipelined_requests_wait_as_bytes_and_are_all_answered(wire):
    client = await wire.connect()
    await client.send(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
    for _ in range(2000):
        assert (await client.answer())[0].startswith(b"HTTP/1.1 404 ")


async def test_a_flood_of_pipelined_requests_costs_memory_only_for_its_bytes(echo):
    """Given 20 clients with 10,000 requests each behind one that is not done, I expect to hold little more than these
    5 MB."""
    port = await echo.listen()
    gc.collect()
    tracemalloc.start()
    clients = [await RawClient.to(port) for _ in range(20)]
    for client in clients:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: \r\n\r\n" * 10_000)
    for _ in range(200):
        await asyncio.sleep(0.001)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for client in clients:
        client.writer.transport.abort()
    assert held < 20 * 10_000 * 26 * 2 + 5_000_000


async def test_a_client_that_leaves_its_answers_unread_is_soon_gone(slow_wire):
    wire = slow_wire
    client = await wire.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    await client.send(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.writer.write(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000)
    await asyncio.sleep(15)
    assert wire.handler.open == 0
    assert len(wire.server.connections) == 0


async def test_a_stream_that_its_client_does_not_read_is_cut_after_the_time_that_is_configured(slow_wire):
    wire = slow_wire

    async def script(request: Incoming) -> None:
        await request.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await request.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    wire.upstream.script = script
    client = await wire.connect(receive_buffer=65_536)
    client.writer.transport.pause_reading()
    await client.send(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(2)
    assert wire.handler.open == 1
    await asyncio.sleep(6)
    assert wire.handler.open == 0
    assert wire.ends.trips[0].cut


async def test_the_last_answer_of_a_connection_is_not_kept_for_a_client_that_never_takes_it(slow_wire):
    """It is closing, but what was written is still there."""
    wire = slow_wire
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
    client = await wire.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    ask = b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n"
    client.writer.write((ask + b"\r\n") * 200 + ask + b"Connection: close\r\n\r\n")
    await asyncio.sleep(15)
    assert len(wire.server.connections) == 0


# ---- a body that does not come


@pytest.mark.parametrize(
    "head", [post(CHAT)[: -len(CHAT)], UPLOAD + b"Content-Length: 100\r\n\r\n"], ids=["json", "form"]
)
async def test_a_body_that_does_not_come_is_waited_for_and_then_answered_with_408(slow_wire, head):
    wire = slow_wire
    client = await wire.connect()
    await client.send(head + b"x")
    await asyncio.sleep(2)
    assert wire.handler.open == 1
    answer = await asyncio.wait_for(client.reader.read(), 4)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_timeout"
    assert wire.handler.open == 0
    await wire.house.quiet()
    assert wire.house.is_idle()


async def test_a_byte_now_and_then_does_not_keep_a_place(slow_wire):
    wire = slow_wire
    client = await wire.connect()
    await client.send(post(b"x" * 1000)[:-1000])
    for _ in range(4):
        client.writer.write(b"x")
        await asyncio.sleep(1.2)
    assert wire.handler.open == 0


async def test_a_slow_upload_that_goes_on_is_read_to_its_end(slow_wire):
    """At 2 KiB a second."""
    wire = slow_wire
    client = await wire.connect()
    await client.send(UPLOAD + b"Content-Length: 24576\r\n\r\n")
    for _ in range(12):
        await client.send(b"x" * 2048)
        await asyncio.sleep(1)
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


async def test_the_time_in_which_upstream_takes_nothing_is_not_the_clients(slow_wire):
    """An upload waits for upstream, which then reads on."""
    wire = slow_wire
    size = 64 * 2**20

    async def script(request: Incoming) -> None:
        await asyncio.sleep(8)
        await request.reader.readexactly(size)
        await request.send(OK)
        await request.gone()

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(UPLOAD + b"Content-Length: %d\r\n\r\n" % size)
    sending = asyncio.create_task(client.send(b"x" * size))
    async with asyncio.timeout(300):
        head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    await sending


def test_accepted_connections_are_kept_alive_by_the_kernel():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        keep_alive(listener)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
