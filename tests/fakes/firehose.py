"""An upstream for bodies of any size, in constant memory: it counts what comes, and sends as much as it is asked to.

`POST /v1/files` is answered with the body's length and CRC-32, `GET /v1/files/x/content?size=N` with N bytes of
`PATTERN`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

PATTERN = bytes(range(256)) * 1024  # 256 KiB


def crc_of(size: int) -> int:
    """The CRC-32 of `size` bytes of the pattern, repeated."""
    crc, whole = 0, size // len(PATTERN)
    for _ in range(whole):
        crc = zlib.crc32(PATTERN, crc)
    return zlib.crc32(PATTERN[: size % len(PATTERN)], crc)


@dataclass
class Firehose:
    url: str = ""
    received: int = 0  # bytes of uploads
    given: int = 0  # bytes of downloads that went out
    answers_early: int = 0  # answer an upload with 413 after so many bytes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, target, _ = head.split("\r\n")[0].split(" ")
                if method == "GET":
                    await self._send(int(parse_qs(urlsplit(target).query)["size"][0]), writer)
                elif not await self._take(head.lower(), reader, writer):
                    break
        writer.close()

    async def _send(self, size: int, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        while size:
            piece = PATTERN[: min(size, len(PATTERN))]
            writer.write(piece)
            await writer.drain()
            size -= len(piece)
            self.given += len(piece)

    async def _take(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        size = crc = 0
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), None)
        left = length
        while left is None or left:
            if left is None:
                left = int((await reader.readuntil(b"\r\n")).strip(), 16)
                if not left:
                    await reader.readexactly(2)
                    break
            piece = await reader.read(min(left, 2**18))
            if not piece:
                return False
            crc, size, left = zlib.crc32(piece, crc), size + len(piece), left - len(piece)
            self.received += len(piece)
            if self.answers_early and size >= self.answers_early:
                error = {
                    "error": {"message": "too large", "type": "invalid_request_error", "param": None, "code": None}
                }
                await self._answer(413, error, writer, "Connection: close\r\n")
                while await reader.read(2**18):  # to close over unread bytes would take the answer away (RFC 9112 §9.6)
                    pass
                return False
            if not left and length is None:
                await reader.readexactly(2)
                left = None
        await self._answer(200, {"id": "file-1", "object": "file", "bytes": size, "crc": crc}, writer)
        return True

    @staticmethod
    async def _answer(status: int, document: object, writer: asyncio.StreamWriter, more: str = "") -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


@contextlib.contextmanager
def running_firehose() -> Iterator[Firehose]:
    """Served by a thread as long as the block lasts."""
    hose, started, loop = Firehose(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(hose.serve, "127.0.0.1", 0, limit=2**20)
        hose.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield hose
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
