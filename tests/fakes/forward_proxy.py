"""A forward proxy that knows CONNECT and nothing else, with a login, or a refusal for everybody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator


class ForwardProxy:
    """`answer`: sent instead of opening a tunnel. `leads_to`: where every tunnel ends, whatever was asked."""

    def __init__(self, *, login: str = "", answer: bytes = b"", established: bytes = b"", leads_to: int = 0) -> None:
        self.asked: list[bytes] = []  # the heads that came
        self.tunnels = 0
        self.port = 0
        self._login = base64.b64encode(login.encode()) if login else b""
        self._answer = answer
        self._established = established or b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"
        self._leads_to = leads_to
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ForwardProxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # connections close in the loop's next turns

    def url(self, login: str = "") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            if self._answer:
                writer.write(self._answer)
            elif self._login and b"Proxy-Authorization: Basic " + self._login + b"\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?")
            else:
                await self._tunnel(head, reader, writer)

    async def _tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(b" ", 2)
        assert method == b"CONNECT"
        port = self._leads_to or int(target.rpartition(b":")[2])
        there, beyond = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(beyond):
            for n in range(len(self._established)):  # byte by byte: nobody may count on segments
                writer.write(self._established[n : n + 1])
                await writer.drain()
            self.tunnels += 1
            await asyncio.gather(_pump(reader, beyond), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(65_536):
            sink.write(piece)
            await sink.drain()
    sink.close()
