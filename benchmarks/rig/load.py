"""The load: clients on a bare protocol, in a process of its own that takes one order a line and answers with one.

    echo '{"mode": "whole", "port": 8080, "clients": 32, "requests": 1000}' | python benchmarks/rig/load.py

Modes: `whole` (JSON answers, each client one request after another), `streams` (the same with server-sent events),
`hold` (that many streams at once, kept open until the order `release`). Times are microseconds, from the first byte
sent. Whatever is not a whole answer with status 200 counts as an error. With `unique` no question is asked twice.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import httptools
import uvloop

LIMIT_S = 60.0
FIRST_WORD = b'"content":" '  # the upstream's words begin with a blank; the role's event has none
QUESTION = (
    "A small service calls a language model for many tenants. Each of them has a budget of requests and tokens a "
    "minute, and behind the service there is a pool of keys with limits of their own. Say in plain words how a "
    "proxy can share the keys out, what it does when one of them answers that its limit is reached, and how it "
    "counts the tokens of an answer that streams, whose real number is known only at its end. Compare counting in "
    "one place with leases that each worker spends by itself, name what either costs and what it gets wrong, and "
    "say which of them you would take for four workers on one machine and why. Keep to the question; where you do "
    "not know, say so; no figures without a source. Begin with the answer, then the reasons, then what would "
    "change your mind."
)


NUMBER = b"000000000000"  # where a unique question has its own


def request(order: dict[str, Any]) -> bytes:
    question = f"{NUMBER.decode()} {QUESTION}" if order.get("unique") else QUESTION
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}], "max_tokens": 256}
    if order["mode"] != "whole":
        pace = f"g{order.get('gap_ms', 10)}n{order.get('events', 50)}"
        body |= {"stream": True, "stream_options": {"include_usage": True}, "user": pace}
    data = json.dumps(body, separators=(",", ":")).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{order['port']}",
        "Content-Type: application/json",
        "Accept: application/json",
        "User-Agent: OpenAI/Python 3.54.0",
        "X-Stainless-Lang: python",
        "X-Stainless-Retry-Count: 0",
        f"Authorization: Bearer {order.get('key', 'sk-any')}",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Client(asyncio.Protocol):
    """One keep-alive connection and the answer that comes over it."""

    def __init__(self) -> None:
        self.open = False
        self.done: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.open = True

    def connection_lost(self, _: Exception | None) -> None:
        self.open = False
        self._end(whole=False)

    def ask(self, data: bytes) -> asyncio.Future[bool]:
        """Whether the answer came whole, with status 200."""
        self.parser = httptools.HttpResponseParser(self)
        self.first_us = 0.0
        self.events = 0
        self.spoke = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self.began = time.perf_counter()
        self.transport.write(data)
        return self.done

    def elapsed_us(self) -> float:
        return (time.perf_counter() - self.began) * 1e6

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self.events += body.count(b"data: ")
        if not self.first_us and FIRST_WORD in body:
            self.first_us = self.elapsed_us()
            self.spoke.set_result(None)

    def on_message_complete(self) -> None:
        self.took_us = self.elapsed_us()
        if not self.parser.should_keep_alive():
            self.transport.close()
            self.open = False
        self._end(whole=self.parser.get_status_code() == 200)

    def _end(self, *, whole: bool) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(whole)


async def connect(port: int) -> Client:
    return (await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port))[1]


def share(values: list[float], part: float) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(len(values) * part))], 1) if values else None


async def closed_loop(order: dict[str, Any]) -> dict[str, Any]:
    """`clients` of them, `requests` in all."""
    data, left, first_number = request(order), int(order["requests"]), time.time_ns() // 1000 % 10**12
    before, _, behind = data.partition(NUMBER)
    took: list[float] = []
    first: list[float] = []
    errors = events = 0

    async def work(place: int) -> None:
        nonlocal left, errors, events
        # Streams that begin together would send each event together.
        await asyncio.sleep(place * order.get("gap_ms", 0) / 1000 / order["clients"])
        client = await connect(order["port"])
        while left > 0:
            left -= 1
            if not client.open:
                client = await connect(order["port"])
            if await client.ask(b"%b%012d%b" % (before, first_number - left, behind) if behind else data):
                took.append(client.took_us)
                first.append(client.first_us)
                events += client.events
            else:
                errors += 1
        client.transport.close()

    began = time.perf_counter()
    await asyncio.gather(*(work(place) for place in range(order["clients"])))
    seconds = time.perf_counter() - began
    return {
        "requests": len(took),
        "errors": errors,
        "events": events,
        "seconds": seconds,
        "p50_us": share(took, 0.5),
        "p99_us": share(took, 0.99),
        "first_p50_us": share(first, 0.5),
        "first_p99_us": share(first, 0.99),
    }


async def hold(order: dict[str, Any], held: list[Client]) -> dict[str, Any]:
    """Open streams until `clients` of them have begun to speak."""
    data = request(order)
    for place in range(order["clients"]):
        client = await connect(order["port"])
        client.ask(data)
        held.append(client)
        if place % 20 == 19:
            await asyncio.sleep(0.02)
    await asyncio.wait([client.spoke for client in held], timeout=30)
    return {"open": sum(client.open and client.first_us > 0 for client in held)}


async def main() -> None:
    loop = asyncio.get_running_loop()
    held: list[Client] = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if order["mode"] == "release":
            for client in held:
                client.transport.abort()
            held.clear()
            said: dict[str, Any] = {}
        else:
            doing = hold(order, held) if order["mode"] == "hold" else closed_loop(order)
            try:
                said = await asyncio.wait_for(doing, LIMIT_S)
            except (OSError, TimeoutError) as problem:
                said = {"problem": repr(problem)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
