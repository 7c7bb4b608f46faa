"""An upstream that keeps each request's bytes, and gives each the answer a test has laid out for its path.

async with open_mirror() as mirror:
    mirror.answers["/v1/files"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    ... ask ...
    mirror.arrived[-1]      # start line, fields in order, body without its framing
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.fakes.wire import OK, parse_head


@dataclass
class Message:
    """A request or an answer: its start line, its fields as they were spelled, and its body without framing."""

    start: str
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known.lower() == name]


async def read_message(reader: asyncio.StreamReader, *, headless: bool = False) -> Message:
    """The next message. Raises IncompleteReadError where there is none."""
    start, fields = parse_head(await reader.readuntil(b"\r\n\r\n"))
    lower = {name.lower(): value for name, value in fields}
    body = b""
    parts = start.split(" ")
    status = int(parts[1]) if start.startswith("HTTP/") else 0
    if headless or status in {204, 304}:
        pass
    elif lower.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif "content-length" in lower:
        body = await reader.readexactly(int(lower["content-length"]))
    elif status:
        body = await reader.read()
    return Message(start, fields, body)


@dataclass
class Mirror:
    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)  # by path, without query
    arrived: list[Message] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await read_message(reader)
                self.arrived.append(message)
                path = message.start.split(" ")[1].partition("?")[0]
                writer.write(self.answers.get(path, OK))
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def open_mirror() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    server = await asyncio.start_server(mirror.serve, "127.0.0.1", 0, limit=2**22)
    mirror.port = server.sockets[0].getsockname()[1]
    try:
        yield mirror
    finally:
        server.close()


async def exchange(port: int, request: bytes, *, headless: bool = False) -> Message:
    """One request, as it stands, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(30):
            return await read_message(reader, headless=headless)
    finally:
        writer.close()
