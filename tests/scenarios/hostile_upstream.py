"""A hostile upstream in a process of its own: `python -m tests.scenarios.hostile_upstream` prints its port.

The request's `user` says how it misbehaves; each answer is bounded to 64 MiB or ten seconds. Only for 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Final

HEAD: Final = b"HTTP/1.1 %s\r\nContent-Type: %s\r\n"
MOST: Final = 64 * 2**20
LONGEST_S: Final = 10.0
JSON, EVENTS = b"application/json", b"text/event-stream"


def whole(status: bytes, body: bytes, *more: bytes) -> list[bytes]:
    return [HEAD % (status, JSON), *more, b"Content-Length: %d\r\n\r\n" % len(body), body]


def chunks(kind: bytes, piece: bytes, times: int) -> Iterator[bytes]:
    yield HEAD % (b"200 OK", kind) + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    for _ in range(times):
        yield chunk


def answer(kind: str) -> Iterable[bytes]:
    """The pieces of one answer."""
    if kind == "endless_headers":
        return [HEAD % (b"200 OK", JSON), *(b"X-%07d: %s\r\n" % (n, b"x" * 1000) for n in range(MOST // 1024))]
    if kind == "nested_error":
        return whole(b"400 Bad Request", b'{"error":' * 3_000 + b"1" + b"}" * 3_000)
    if kind == "endless_line":
        return chunks(EVENTS, b"data: " + b"x" * 65_536, MOST // 65_536)
    if kind == "packed_error":
        return whole(b"400 Bad Request", PACKED, b"Content-Encoding: gzip\r\n")
    if kind == "hollow_json":
        return whole(b"200 OK", HOLLOW)
    if kind == "tiny_events":
        return chunks(EVENTS, b"data: {}\n\n" * 100, 20_000)
    if kind == "tiny_chunks":
        return chunks(JSON, b" ", 2_000_000)
    if kind == "broken_length":
        return [HEAD % (b"200 OK", JSON), b"Content-Length: 10\r\nContent-Length: 99999999999999999999\r\n\r\n{}"]
    if kind == "nul_reason":
        return whole(b"200 \0\x01\xff", b"{}")
    return []  # drip


HOLLOW = b'{"choices":[' + b"[]," * 5_000_000 + b"[]]}"
PACKED = gzip.compress(b" " * 100_000_000, 9)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    until = time.monotonic() + LONGEST_S
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, KeyError, ValueError):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        kind = json.loads(await reader.readexactly(length))["user"]
        for number, piece in enumerate(answer(kind)):
            writer.write(piece)
            if number % 64 == 0:
                await writer.drain()
            if time.monotonic() > until or writer.is_closing():
                break
        while kind == "drip" and time.monotonic() < until and not writer.is_closing():
            writer.write(b"H")
            await asyncio.sleep(0.1)
        await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    os.nice(19)  # in earnest it would be another machine's processor
    asyncio.run(main())
