"""An upstream that follows a script byte by byte, and the client under test in front of it.

async with talk_to("ours", script) as (client, server):
    answer = await client.send("GET", "/", [], None)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Answer, Timeouts, Upstream

from tests.reference.aiohttp_upstream import AiohttpUpstream

PATIENCE_S = 5.0
CLIENTS = {"aiohttp": AiohttpUpstream, "ours": UpstreamClient}


class Incoming:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number

    async def request(self) -> bytes:
        """The next request's head, and its body if it has a length. Raises IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return head + await self.reader.readexactly(int(value))
        return head

    async def send(self, *pieces: bytes) -> None:
        """Each piece is a segment of its own, and the client has time to read it by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def gone(self) -> None:
        """Until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        """Close it with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Incoming], Awaitable[None]]


class ScriptedServer:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.requests: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**20, ssl=tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(Incoming(reader, writer, self.connections)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, incoming: Incoming) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self.script(incoming)
        incoming.writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def answering(*answers: Iterable[bytes]) -> Script:
    """Gives these answers one after the other, each in its pieces, the last one again and again, on each connection."""

    async def script(incoming: Incoming) -> None:
        n = 0
        while True:
            await incoming.request()
            await incoming.send(*answers[min(n, len(answers) - 1)])
            n += 1

    return script


def once(*pieces: bytes, reset: bool = False) -> Script:
    """Sends this as the answer to a connection's first request, and closes."""

    async def script(incoming: Incoming) -> None:
        await incoming.request()
        await incoming.send(*pieces)
        if reset:
            incoming.reset()

    return script


@contextlib.asynccontextmanager
async def talk_to(
    kind: str,
    script: Script,
    *,
    server_tls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    connect: float | None = PATIENCE_S,
    first_byte: float | None = PATIENCE_S,
    between_bytes: float | None = PATIENCE_S,
) -> AsyncIterator[tuple[Upstream, ScriptedServer]]:
    server = ScriptedServer(script)
    scheme = "https" if server_tls else "http"
    base = f"{scheme}://{host}:{await server.start(server_tls)}"
    client = CLIENTS[kind](base, Timeouts(connect, first_byte, between_bytes), tls=tls)
    try:
        async with asyncio.timeout(60):
            yield client, server
    finally:
        await client.close()
        await server.stop()


async def whole(answer: Answer) -> bytes:
    pieces = []
    while piece := await answer.chunk():
        pieces.append(piece)
    answer.close()
    return b"".join(pieces)


async def get(client: Upstream, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one request without a body."""
    answer = await client.send(method, "/v1/models", [], None)
    return answer.status, await whole(answer)
