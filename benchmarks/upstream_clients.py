"""CPU per request of the two upstream clients, in turns, against one raw server in a process of its own.

python benchmarks/upstream_clients.py [--requests 20000] [--concurrency 32] [--rounds 5]

Prints µs of this process's CPU per JSON request (1 KiB up, 1 KiB down) and per event of a stream, and their medians.
The server's CPU is not in it; compare inside one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import uvloop
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, Upstream

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.reference.aiohttp_upstream import AiohttpUpstream

TIMEOUTS = Timeouts(5.0, 60.0, 60.0)
CLIENTS: dict[str, Callable[[str], Upstream]] = {
    "aiohttp": lambda base: AiohttpUpstream(base, TIMEOUTS),
    "ours": lambda base: UpstreamClient(base, TIMEOUTS),
}
REQUEST = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "' + b"x" * 950 + b'"}]}'
HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 3.54"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"Authorization", b"Bearer sk-" + b"0" * 40),
]
ANSWER_HEADERS = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nopenai-processing-ms: 12\r\nopenai-version: 2020\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-tokens: 199000\r\nx-ratelimit-reset-tokens: 1s\r\n"
    b"x-request-id: req_0123456789\r\nServer: cloudflare\r\n"
)
JSON = ANSWER_HEADERS + b"Content-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
EVENTS = 100
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hello there"}}]}\n\n'
STREAM = ANSWER_HEADERS + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server(asyncio.Protocol):
    """Answers each POST with JSON; each GET with a stream, one event per turn of the loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.had = 0

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self.transport.write(STREAM)
            asyncio.get_running_loop().call_later(0.001, self.event, EVENTS)
            return
        self.had += len(data)
        if data.endswith(b"}"):  # as the requests' bodies do, and nothing else in them
            self.transport.write(JSON)

    def event(self, left: int) -> None:
        if left and not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            asyncio.get_running_loop().call_later(0.001, self.event, left - 1)
        else:
            self.transport.write(b"0\r\n\r\n")


def serve(pipe: Pipe) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


async def exchange(client: Upstream, method: str, body: bytes | None) -> int:
    answer = await client.send(method, "/v1/chat/completions", HEADERS, body)
    size = 0
    while piece := await answer.chunk():
        size += len(piece)
    answer.close()
    return size


async def measure(client: Upstream, method: str, body: bytes | None, requests: int, concurrency: int) -> float:
    """µs of CPU per request."""
    left = requests

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await exchange(client, method, body)

    await asyncio.gather(*(exchange(client, method, body) for _ in range(concurrency)))  # connections are open now
    started = time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return (time.process_time() - started) / requests * 1e6


async def run(base: str, requests: int, concurrency: int, rounds: int) -> None:
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, make in CLIENTS.items():
            client = make(base)
            per_request = await measure(client, "POST", REQUEST, requests, concurrency)
            streams = max(concurrency, requests // 200)
            per_stream = await measure(client, "GET", None, streams, concurrency)
            await client.close()
            figures.setdefault((name, "request"), []).append(per_request)
            figures.setdefault((name, "event"), []).append(per_stream / EVENTS)
            print(f"{name:8} {per_request:7.1f} µs/request {per_stream / EVENTS:7.1f} µs/event")
    for (name, what), values in sorted(figures.items()):
        print(f"median {name:8} {statistics.median(values):7.1f} µs/{what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    mine, its = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(its,), daemon=True)
    server.start()
    try:
        base = f"http://127.0.0.1:{mine.recv()}"
        uvloop.run(run(base, given.requests, given.concurrency, given.rounds))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
