"""A hostile client at full speed, a process of its own: `python -m tests.scenarios.hostile_client forms PORT KEY 60`.

Attacks are named by what they send; the letters are those of the field cases that they come from. Only for 127.0.0.1.
Each runs until its seconds are over, and dials again when the proxy ends a connection. Prints how many it sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 5.0  # patience with one answer
EMPTY_FRAME: Final = b"\x81\x80\0\0\0\0"  # text, masked with zeros


@dataclass
class Attacker:
    port: int
    key: str
    until: float
    sent: int = 0

    def going_on(self) -> bool:
        return time.monotonic() < self.until

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def head(self, path: str, length: int, *more: str, kind: str = "application/json") -> bytes:
        lines = (f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {self.key}")
        return "\r\n".join((*lines, f"Content-Type: {kind}", f"Content-Length: {length}", *more, "", "")).encode()

    async def post(self, path: str, body: bytes, *more: str, kind: str = "application/json") -> None:
        """One request, on a connection of its own; its answer is read for a while and thrown away."""
        async with self.connection() as (reader, writer):
            writer.write(self.head(path, len(body), *more, kind=kind) + body)
            self.sent += 1
            async with asyncio.timeout(ANSWER_S):
                await reader.read(65_536)


Attack = Callable[[Attacker], Awaitable[None]]


async def forms(attacker: Attacker) -> None:
    """F2: a form whose body looks like the beginnings of many fields."""
    for path, size in itertools.cycle((("/v1/videos", 64), ("/v1/skills", 260))):
        body = b"name=file_id;" * (size * 1024 // 13)
        await attacker.post(path, body, kind="multipart/form-data; boundary=x")
        if not attacker.going_on():
            return


async def pipelined(attacker: Attacker) -> None:
    """F3: thousands of requests at once, without a key, whose answers nobody reads."""
    async with attacker.connection() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # answers stay in the kernel's buffers
        for _ in range(4):
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * (64 * 1024 // 18))
            attacker.sent += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()
                await asyncio.sleep(ANSWER_S)


def large_bodies() -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """(path, body, more headers): what is small to send and large to hold."""
    hollow = b'{"model":"gpt-4o-mini","messages":[' + b"[]," * 16_000_000 + b"[]]}"
    packed = gzip.compress(b'{"model":"gpt-4o-mini","messages":[' + b"[]," * 20_000_000 + b"[]]}", 9)
    files = b'{"file_ids":[' + b",".join(b'"file-%07d"' % n for n in range(1_000_000)) + b"]}"
    every = (
        ("/v1/chat/completions", packed, ("Content-Encoding: gzip",)),
        ("/v1/chat/completions", hollow, ()),
        ("/v1/vector_stores", files, ()),
    )
    return itertools.cycle(every)


async def large(attacker: Attacker) -> None:
    """F4: JSON of many empty containers, packed and plain, and a million ids."""
    for path, body, more in LARGE_BODIES:
        await attacker.post(path, body, *more)
        if not attacker.going_on():
            return


async def halted(attacker: Attacker) -> None:
    """F5: a body that never comes."""
    async with attacker.connection() as (reader, writer):
        writer.write(attacker.head("/v1/chat/completions", 100) + b"{")
        attacker.sent += 1
        async with asyncio.timeout(max(0.0, attacker.until - time.monotonic())):
            await reader.read(65_536)


def evil_body(kind: str) -> bytes:
    """A request that `hostile_upstream.py` answers in this way."""
    stream = "true" if kind in {"endless_line", "tiny_events"} else "false"
    return f'{{"model":"evil","user":"{kind}","stream":{stream},"messages":[]}}'.encode()


async def unread(attacker: Attacker) -> None:
    """F5: long streams of a hostile upstream whose bytes nobody reads."""
    body = evil_body("endless_line")
    async with attacker.connection() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(attacker.head("/v1/chat/completions", len(body)) + body)
        attacker.sent += 1
        while attacker.going_on() and not writer.is_closing():
            await asyncio.sleep(0.5)


async def frames(attacker: Attacker) -> None:
    """F11: empty WebSocket messages by the ten thousand."""
    lines = (f"Host: {HOST}", f"Authorization: Bearer {attacker.key}", "Upgrade: websocket", "Connection: Upgrade")
    secret = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "")
    async with attacker.connection() as (reader, writer):
        writer.write("\r\n".join(("GET /v1/realtime?model=flooded HTTP/1.1", *lines, *secret)).encode())
        await reader.readuntil(b"\r\n\r\n")
        while attacker.going_on():
            writer.write(EMPTY_FRAME * (64 * 1024 // len(EMPTY_FRAME)))
            attacker.sent += 1
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    if not await reader.read(2**20):
                        return


async def evil_upstream(attacker: Attacker) -> None:
    """The client that asks for the model of a hostile upstream, and reads as fast as it can."""
    kind = KINDS[attacker.sent % len(KINDS)]
    body = evil_body(kind)
    async with attacker.connection() as (reader, writer):
        writer.write(attacker.head("/v1/chat/completions", len(body), "Connection: close") + body)
        attacker.sent += 1
        async with asyncio.timeout(ANSWER_S):
            received = 0
            while received < 32 * 2**20 and (data := await reader.read(2**18)):
                received += len(data)


async def nothing(attacker: Attacker) -> None:
    """What the machine itself does to others while as much is computed beside the proxy: the measure of the rest."""
    while attacker.going_on():
        sum(range(20_000))
        await asyncio.sleep(0)


KINDS: Final = (
    "endless_headers", "nested_error", "endless_line", "packed_error", "hollow_json", "tiny_events", "tiny_chunks",
    "broken_length", "nul_reason", "drip",
)  # fmt: skip
LARGE_BODIES = large_bodies()
ATTACKS: Final[dict[str, tuple[Attack, int]]] = {  # and how many at once
    "nothing": (nothing, 1),
    "forms": (forms, 4),
    "pipelined": (pipelined, 60),
    "large": (large, 3),
    "halted": (halted, 2_500),
    "unread": (unread, 100),
    "frames": (frames, 2),
    "evil_upstream": (evil_upstream, 8),
}


async def run(name: str, attacker: Attacker) -> None:
    attack, at_once = ATTACKS[name]

    async def again_and_again() -> None:
        while attacker.going_on():
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await attack(attacker)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(again_and_again()) for _ in range(at_once)]
    await asyncio.wait(tasks, timeout=max(0.0, attacker.until - time.monotonic()) + 1)


if __name__ == "__main__":
    os.nice(19)  # in earnest it would be another machine's processor
    which, port, key, seconds = sys.argv[1:]
    one = Attacker(int(port), key, time.monotonic() + min(60.0, float(seconds)))
    asyncio.run(run(which, one))
    print(one.sent, flush=True)
    os._exit(0)  # connections that hang need no farewell
