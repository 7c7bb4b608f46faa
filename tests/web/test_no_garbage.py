"""A connection that ended is gone at once: whatever waited for the collector would wait for days in a quiet worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest
from quotapool.domain.observer import Observer
from quotapool.openai.forms import FormError, FormReader
from quotapool.upstream.connection import UpstreamConnection
from quotapool.upstream.interface import Answer, Timeouts, UpstreamFailure
from quotapool.upstream.turns import Turns
from quotapool.web.exchange import Exchange
from quotapool.web.handlers import ClientHandler
from quotapool.web.server import ClientConnection, Server

from tests.fakes.edge import Client, chat_body
from tests.fakes.house import open_house


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
    if sent.startswith(b"GET"):
        await reader.readuntil(b"ok")
    writer.transport.abort()
    async with asyncio.timeout(30):
        while server.connections or any(isinstance(one, ClientConnection) for one in gc.get_objects()):
            await asyncio.sleep(0)
    listening.close()
    await server.close()


class Held:
    """What a frame keeps alive, and the error with it."""

    error: Exception | None = None


class Breaking:
    """An upstream that keeps the failure that it raises, as an answer or an outcome does."""

    def __init__(self) -> None:
        self.seen: weakref.ref[Held] | None = None

    async def send(self, *_: object) -> Answer:
        held = Held()
        self.seen = weakref.ref(held)
        held.error = UpstreamFailure("reset", "broke off", sent=True)
        raise held.error


class Caller(Client):
    """A client with what a handler asks of it besides."""

    id, keep_alive, fault, started_at, address = "", True, None, None, ""
    __hash__ = object.__hash__


async def test_a_refused_request_leaves_no_garbage_though_its_error_is_kept(no_collector, valkey_url):
    async with open_house(valkey_url, {"a": 1}, retry={"max_attempts": 1}) as house:
        upstream, caller = Breaking(), Caller(chat_body())
        house.configure(upstream=upstream)
        await ClientHandler(house.paths.requests, Observer()).serve(caller)
        assert caller.status == 502
        assert upstream.seen is not None
        assert upstream.seen() is None


@pytest.mark.parametrize("form", [b"", b"--x\r\n", b"name=file_id;" * 100])
def test_a_forms_reader_leaves_no_garbage(no_collector, form):
    reader = FormReader(b"x")
    with contextlib.suppress(FormError):
        reader.feed(form)
    del reader
    assert not any(isinstance(one, FormReader) for one in gc.get_objects())


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
    connection.drop()
    del connection, got
    async with asyncio.timeout(30):
        while any(isinstance(one, UpstreamConnection) for one in gc.get_objects()):
            await asyncio.sleep(0)
    server.close()
