"""A connection that ended is gone at once: whatever waited for the collector would wait for days in a quiet worker."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from quotapool.upstream.connection import UpstreamConnection
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.turns import Turns
from quotapool.web.exchange import Exchange
from quotapool.web.server import Server


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def answer(exchange: Exchange, _wanted: object) -> None:
    await exchange.read(1_000)
    await exchange.start(200, "", [], 2)
    await exchange.write(b"ok")
    await exchange.finish()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHos",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
async def test_a_clients_connection_leaves_no_garbage(no_collector, sent):
    server = Server(answer)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    writer.write(sent)
    while not server.connections:
        await asyncio.sleep(0)
    (connection,) = server.connections
    seen = weakref.ref(connection)
    del connection
    if sent.startswith(b"GET"):
        await reader.readuntil(b"ok")
    writer.transport.abort()
    async with asyncio.timeout(5):
        while server.connections or seen() is not None:
            await asyncio.sleep(0)
    listening.close()
    await server.close()


class Owner:
    def answered(self, connection: UpstreamConnection) -> None: ...

    def free(self, connection: UpstreamConnection) -> None: ...

    def gone(self, connection: UpstreamConnection) -> None: ...


async def test_a_connection_to_upstream_leaves_no_garbage(no_collector):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    timeouts, turns = Timeouts(5, 5, 5), Turns()
    _, connection = await loop.create_connection(lambda: UpstreamConnection(loop, Owner(), timeouts, turns), *where)
    got = connection.request("GET", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None, None)
    assert await got.chunk() == b"ok"
    seen = weakref.ref(connection)
    connection.drop()
    del connection, got
    async with asyncio.timeout(5):
        while seen() is not None:
            await asyncio.sleep(0)
    server.close()
