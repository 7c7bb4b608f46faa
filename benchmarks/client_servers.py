"""CPU per request of our HTTP server and of aiohttp's, in turns, for raw clients in a process of their own.

python benchmarks/client_servers.py [--requests 20000] [--connections 32] [--rounds 5]

Both read a request of 1 KiB and answer with 1 KiB or with a stream, by the calls with which an answer is relayed.
Prints µs of this process's CPU per request and per event, and the medians. The clients' CPU is not in it; compare
inside one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import uvloop
from quotapool.request.relay import Downstream
from quotapool.web.server import Server

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.reference.aiohttp_server import AiohttpServer

BODY = b"x" * 1024
REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 3.54\r\nX-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\n"
    b"Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nAuthorization: Bearer anything\r\n"
    b"Content-Length: 1024\r\n\r\n" + BODY
)
EVENTS = 100
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hello there"}}]}\n\n'
HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"openai-processing-ms", b"12"),
    (b"openai-version", b"2020"),
    (b"x-ratelimit-limit-requests", b"10000"),
    (b"x-ratelimit-remaining-requests", b"9999"),
    (b"x-ratelimit-reset-requests", b"6ms"),
    (b"x-request-id", b"req_0123456789"),
]


class Answers:
    """In place of `ClientHandler`."""

    async def serve(self, down: Downstream, _wanted: object = None) -> None:
        await down.read(2**20)
        if down.target == "/stream":
            await down.start(200, "OK", HEADERS, None)
            for _ in range(EVENTS):
                await down.write(EVENT)
                await asyncio.sleep(0)
        else:
            await down.start(200, "OK", HEADERS, len(BODY))
            await down.write(BODY)
        await down.finish()


class Client(asyncio.Protocol):
    """Asks again as soon as an answer is here."""

    def __init__(self, target: bytes, requests: int, done: asyncio.Future[None]) -> None:
        self.request, self.left, self.done, self.last = REQUEST % target, requests, done, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.last = (self.last + data)[-5:]
        if self.last not in {b"xxxxx", b"0\r\n\r\n"}:
            return
        self.last = b""
        self.left -= 1
        if self.left:
            self.transport.write(self.request)
        else:
            self.transport.close()
            self.done.set_result(None)


def ask(pipe: Pipe) -> None:
    """For each (port, target, connections, requests of each) that comes, asks, and answers when all have been."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        while True:
            port, target, connections, requests = await loop.run_in_executor(None, pipe.recv)
            clients = [Client(target, requests, loop.create_future()) for _ in range(connections)]
            for client in clients:
                await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
            await asyncio.gather(*(client.done for client in clients))
            pipe.send(None)

    uvloop.run(main())


async def run(pipe: Pipe, requests: int, connections: int, rounds: int) -> None:
    loop = asyncio.get_running_loop()
    ours, aiohttps = Server(Answers().serve), AiohttpServer(Answers())
    figures: dict[tuple[str, str], list[float]] = {}
    ports: dict[str, int] = {}
    for name, server in (("ours", ours), ("aiohttp", aiohttps)):
        listening = await loop.create_server(server, "127.0.0.1", 0)
        ports[name] = listening.sockets[0].getsockname()[1]

    async def measure(port: int, target: bytes, each: int) -> float:
        """µs of CPU per request."""
        started = time.process_time()
        pipe.send((port, target, connections, each))
        await loop.run_in_executor(None, pipe.recv)
        return (time.process_time() - started) / (connections * each) * 1e6

    for _ in range(rounds):
        for name, port in ports.items():
            per_request = await measure(port, b"/json", max(1, requests // connections))
            per_event = await measure(port, b"/stream", max(1, requests // connections // 50)) / EVENTS
            figures.setdefault((name, "request"), []).append(per_request)
            figures.setdefault((name, "event"), []).append(per_event)
            print(f"{name:8} {per_request:7.1f} µs/request {per_event:7.1f} µs/event")
    for (name, what), values in sorted(figures.items()):
        print(f"median {name:8} {statistics.median(values):7.1f} µs/{what}")
    await ours.close()
    await aiohttps.shutdown(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    mine, theirs = multiprocessing.Pipe()
    clients = multiprocessing.get_context("spawn").Process(target=ask, args=(theirs,), daemon=True)
    clients.start()
    try:
        uvloop.run(run(mine, given.requests, given.connections, given.rounds))
    finally:
        clients.terminate()
        clients.join()


if __name__ == "__main__":
    main()
