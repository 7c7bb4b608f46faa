"""HTTP as bytes on both sides of the real listener: an upstream and a client that send exactly what a test gives them.

async with open_wire(valkey_url) as wire:
    wire.upstream.answer = b"HTTP/1.1 204 No Content\\r\\n\\r\\n"
    client = await wire.connect()
    await client.send(b"GET /v1/models HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    head, body = await client.answer()
    assert wire.upstream.requests[0].startswith(b"GET /v1/models")
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from quotapool.domain.request_record import RequestRecord
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts
from quotapool.web.handlers import ClientHandler
from quotapool.web.server import Server

from tests.fakes.house import House, open_house
from tests.reference.aiohttp_server import AiohttpServer

PATIENCE_S = 5.0  # for anything that should come; nothing here waits for it when all is well

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Script = Callable[["Incoming"], Awaitable[None]]


class Incoming:
    """One connection as the faked upstream sees it, after the head of a request has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.reader, self.writer, self.head = reader, writer, head

    async def rest(self) -> bytes:
        """The body, chunked or by its length."""
        fields = parse_head(self.head)[1]
        lower = {name.lower(): value for name, value in fields}
        if "transfer-encoding" in lower:
            return await self.reader.readuntil(b"0\r\n\r\n")
        return await self.reader.readexactly(int(lower.get("content-length", "0")))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Until the proxy has closed this connection."""
        while await self.reader.read(65_536):
            pass


class RawUpstream:
    """Answers each request with `answer`, or lets `script` do it."""

    def __init__(self) -> None:
        self.answer = OK
        self.script: Script | None = None
        self.requests: list[bytes] = []  # head and body of each, as they came
        self.connections = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                incoming = Incoming(reader, writer, await reader.readuntil(b"\r\n\r\n"))
                if self.script is not None:
                    self.requests.append(incoming.head)
                    await self.script(incoming)
                    break
                self.requests.append(incoming.head + await incoming.rest())
                await incoming.send(self.answer)
        writer.close()


class RawClient:
    @classmethod
    async def to(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """(head, body) of an answer with a length, or chunked (the body then as on the wire)."""
        head = await self.head()
        lower = {name.lower(): value for name, value in parse_head(head)[1]}
        async with asyncio.timeout(PATIENCE_S):
            if "transfer-encoding" in lower:
                return head, await self.reader.readuntil(b"0\r\n\r\n")
            return head, await self.reader.readexactly(int(lower.get("content-length", "0")))

    async def to_the_end(self) -> bytes:
        """Everything until the proxy closes the connection, however it does that."""
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while piece := await self.reader.read(65_536):
                    got += piece
        return got

    def close(self) -> None:
        self.writer.close()


class Ends:
    """Keeps the record of each request."""

    def __init__(self) -> None:
        self.trips: list[RequestRecord] = []

    def began(self) -> None:
        """Nothing to record."""

    def ended(self, trip: RequestRecord) -> None:
        self.trips.append(trip)


class Wire:
    def __init__(self, house: House, upstream: RawUpstream, port: int, handler: ClientHandler, ends: Ends) -> None:
        self.house, self.upstream, self.port, self.handler, self.ends = house, upstream, port, handler, ends
        self.server: Server
        self._clients: list[RawClient] = []

    async def connect(self, receive_buffer: int = 0) -> RawClient:
        """A new connection. `receive_buffer`: bytes the kernel keeps for it, if that matters."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        client = RawClient(*await asyncio.open_connection(sock=sock, limit=2**20))
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> tuple[bytes, bytes]:
        """One request on a connection of its own."""
        client = await self.connect()
        await client.send(data)
        answer = await client.answer()
        client.close()
        return answer

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


def kernel_buffers() -> int:
    """Bytes that Linux may hold on the way from one program through a second one to a third whose receive buffer has a
    fixed size: a send, a receive and a send buffer, which grow up to these (tcp(7))."""
    receive, send = (int(Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()[2]) for name in ("rmem", "wmem"))
    return receive + 2 * send


def parse_head(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """(start line, fields in order and in the sender's spelling)."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    return first, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def post(body: bytes, *fields: str, target: str = "/v1/chat/completions") -> bytes:
    """A JSON request as a plain client writes it."""
    more = "".join(f"{field}\r\n" for field in fields)
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def open_wire(
    url: str, *, timeouts: Timeouts | None = None, server: str = "ours", **options: Any
) -> AsyncIterator[Wire]:
    """The real listener and the real upstream client, on 127.0.0.1, around one account with one key."""
    async with open_house(url, {"a": 1}, **options) as house:
        raw, ends = RawUpstream(), Ends()
        base = f"http://127.0.0.1:{await raw.start()}"
        upstream = UpstreamClient(base, timeouts or Timeouts(2.0, PATIENCE_S, PATIENCE_S))
        house.configure(upstream=upstream)
        handler = ClientHandler(house.paths.requests, ends)
        ours, aiohttps = Server(handler.serve), AiohttpServer(handler)
        loop = asyncio.get_running_loop()
        serving = await loop.create_server(ours if server == "ours" else aiohttps, "127.0.0.1", 0)
        wire = Wire(house, raw, serving.sockets[0].getsockname()[1], handler, ends)
        wire.server = ours
        try:
            yield wire
        finally:
            serving.close()
            wire.close_clients()
            await upstream.close()
            await ours.close()
            await aiohttps.shutdown(0.1)
            await raw.stop()
