"""What a request costs in our own code: a worker's whole request path, with neither sockets nor HTTP parsing.

    python benchmarks/request_path.py                        # µs of CPU a request in pools of 10, 1,000 and 10,000 keys
    python benchmarks/request_path.py --keys 10 --profile out.prof     # and cProfile's view of one round

The parts are the worker's own; the store grants at once, upstream answers at once, and what is sent to the client goes
nowhere. Thirty-two requests are under way at a time, so that reserves go in batches as they do under load. Log lines
are written, and thrown away. Before a round is timed every key has been used. Of several rounds: the least and the
median.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import datetime as dt
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import yaml
from quotapool.app.worker import Worker
from quotapool.app.worker_pipe import Configure
from quotapool.money.prices import compile_cards
from quotapool.observe import shared_values
from quotapool.openai.head import Head
from quotapool.settings import for_workers, load, to_wire
from quotapool.upstream.answer import StreamedAnswer
from quotapool.web.exchange import Exchange

CLIENTS = 32
REQUESTS = 3200  # a round, and at least so many before the first
POOLS = (10, 1_000, 10_000)
MINUTE = [[1, 1e7], [2, 1e9]]  # dimensions of the script, and their limits
BODY = json.dumps(
    {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Answer in one sentence. " * 8},
            {"role": "user", "content": "y" * 500},
        ],
        "max_completion_tokens": 100,
    }
).encode()
REQUEST = [
    (b"Host", b"127.0.0.1:8080"),
    (b"Content-Type", b"application/json"),
    (b"Authorization", b"Bearer anything"),
    (b"Content-Length", b"%d" % len(BODY)),
]
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "y" * 350}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
).encode()
ANSWERED = [
    (b"Content-Type", b"application/json"),
    (b"Content-Length", b"%d" % len(ANSWER)),
    (b"x-request-id", b"req_1"),
    (b"x-ratelimit-limit-requests", b"10000000"),
    (b"x-ratelimit-remaining-requests", b"9999999"),
    (b"x-ratelimit-reset-requests", b"1ms"),
    (b"x-ratelimit-limit-tokens", b"1000000000"),
    (b"x-ratelimit-remaining-tokens", b"999999999"),
    (b"x-ratelimit-reset-tokens", b"1ms"),
]
_pack, _items = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


async def grant_all(
    _script: object, _key: object, _batch: bytes, body: bytes, *_clock: bytes, **_keys: object
) -> bytes:
    """The store: it has room for every reserve of the batch, and takes every settle."""
    moments = [number for index, limit in MINUTE for number in (index, limit, limit, 1.0, 1.0, 0.0, 0.0, limit)]
    results = [[1, 1, 1234.5, 0.9, False, moments] if bytes(item)[1] == 1 else [2, 0.9] for item in _items(body)]
    await asyncio.sleep(0)
    return _pack([1, "epoch", time.monotonic() + 5, results])


class Upstream:
    """Answers in the loop's next turn."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def send(self, *_: object) -> StreamedAnswer:
        await asyncio.sleep(0)
        answer = StreamedAnswer(self, 60.0)
        answer.status, answer.reason, answer.headers, answer.begun = 200, "OK", Head(ANSWERED), True
        answer.feed(ANSWER)
        answer.end()
        return answer

    def expect_by(self, deadline: float | None) -> None: ...

    def resume(self, answer: StreamedAnswer) -> None: ...

    def give_up(self, answer: StreamedAnswer) -> None: ...


class Connection:
    """The client's connection: it takes everything."""

    lost = False
    drained = None
    address = "127.0.0.1"
    client_s = 60.0
    now = 0.0
    deadline = 0.0

    def send(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


async def nothing() -> dict[Any, Any]:
    return {}


def configured(keys: int, directory: Path) -> Configure:
    config = {
        "state_dir": str(directory / "state"),
        "keys": [{"id": f"k{n}", "secret": f"sk-benchmark-{n:05d}-aaaaaaaaaaaaaaaa"} for n in range(keys)],
        "limits": {"default": {"rpm": 10_000_000, "tpm": 1_000_000_000}},
        "log": {"format": "json"},
    }
    file = directory / "quotapool.yaml"
    file.write_text(yaml.safe_dump(config))
    metrics = directory / "metrics"
    shared_values.prepare(metrics)
    return Configure(msgspec.Raw(to_wire(for_workers(load(file, env={})))), "redis://127.0.0.1:1", str(metrics))


async def measure(keys: int, rounds: int, requests: int, profile: str) -> list[float]:
    """Microseconds of CPU a request, a figure a round."""
    with tempfile.TemporaryDirectory() as directory:
        worker = Worker("0", configured(keys, Path(directory)))
        worker.store.evalsha_batch = grant_all  # type: ignore[method-assign, assignment] # the edge, faked
        for name in ("records", "told_groups", "told_organizations"):
            setattr(worker.ledger.registry, name, nothing)
        worker.spend.take_cards(compile_cards(dt.datetime.now(dt.UTC).date()))
        now = worker.paths.configuration.now
        worker.paths.configuration.now = replace(now, upstream=Upstream())  # the other edge

        async def client(count: int) -> None:
            for _ in range(count):
                exchange = Exchange(
                    Connection(), "POST", "/v1/chat/completions", Head(REQUEST), modern=True, keep_alive=True
                )
                exchange.feed(BODY)
                exchange.feed_end()
                await worker.handler.serve(exchange)

        async def one_round(requests: int = requests) -> float:
            began = time.process_time()
            await asyncio.gather(*(client(requests // CLIENTS) for _ in range(CLIENTS)))
            return (time.process_time() - began) / (requests // CLIENTS * CLIENTS) * 1e6

        await one_round(max(requests, 3 * keys))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as in the worker
        if profile:
            with cProfile.Profile() as profiler:
                await one_round()
            profiler.dump_stats(profile)
        return [await one_round() for _ in range(rounds)]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--keys", type=int, nargs="*", default=list(POOLS))
    asked.add_argument("--rounds", type=int, default=9)
    asked.add_argument("--requests", type=int, default=REQUESTS, help="a round")
    asked.add_argument("--profile", default="", help="write cProfile's statistics of one more round to this file")
    asked.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    given = asked.parse_args()
    if not given.here:  # each pool in a fresh process, its log lines (on stderr) to nowhere
        for keys in given.keys:
            more = ["--profile", given.profile] if given.profile else []
            size = ["--keys", str(keys), "--rounds", str(given.rounds), "--requests", str(given.requests)]
            command = [sys.executable, __file__, "--here", *size, *more]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return
    found = uvloop.run(measure(given.keys[0], given.rounds, given.requests, given.profile))
    text = f"{given.keys[0]:>7,} keys: least {min(found):.1f}, median {statistics.median(found):.1f} µs a request"
    print(text, flush=True)
    os._exit(0)  # nothing here is worth closing


if __name__ == "__main__":
    main()
