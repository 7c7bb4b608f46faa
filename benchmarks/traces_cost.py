"""What traces cost a worker: CPU of a request without them, and with 0, 1 and 100 % of the requests kept.

    python benchmarks/traces_cost.py                       # least and median of 20 interleaved rounds
    python benchmarks/traces_cost.py --rounds 3

The same request path as in request_path.py, in one process; the kinds take turns within each round, since the machine
is never the same for long. `loop` is CPU of the event loop's thread, `process` includes the one that makes, encodes and
sends spans, to a server in another process that throws them away. `off` is there twice: the difference
between the two is what the others must be compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import uvloop
from quotapool.app.worker import Worker
from quotapool.money.prices import compile_cards
from quotapool.openai.head import Head
from quotapool.settings import Traces
from quotapool.web.exchange import Exchange
from request_path import BODY, CLIENTS, REQUEST, Connection, Upstream, configured, grant_all, nothing

KINDS = {"off": None, "off again": None, "0 %": 0.0, "1 %": 0.01, "100 %": 1.0}


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def serve(pipe: Pipe) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    pipe.send(server.server_address[1])
    server.serve_forever()


def turn_to(worker: Worker, ratio: float | None, endpoint: str) -> None:
    traces = Traces() if ratio is None else Traces(endpoint=endpoint, ratio=ratio)
    worker.settings = worker.settings.model_copy(update={"traces": traces})
    worker.traces.configure(worker.settings)  # as a reload does


async def one_round(worker: Worker, requests: int) -> tuple[float, float]:
    """Microseconds of CPU a request: of the loop's thread, of the process."""

    async def client(count: int) -> None:
        for _ in range(count):
            exchange = Exchange(
                Connection(), "POST", "/v1/chat/completions", Head(REQUEST), modern=True, keep_alive=True
            )
            exchange.feed(BODY)
            exchange.feed_end()
            await worker.handler.serve(exchange)

    number = requests // CLIENTS * CLIENTS
    process, loop = time.process_time(), time.thread_time()
    await asyncio.gather(*(client(requests // CLIENTS) for _ in range(CLIENTS)))
    of_loop = time.thread_time() - loop
    if (tracing := worker.traces._tracing) is not None:  # noqa: SLF001 - all is to be sent, however long it takes
        await tracing.close(60)
    return of_loop / number * 1e6, (time.process_time() - process) / number * 1e6


async def measure(endpoint: str, rounds: int, requests: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        worker = Worker("1", configured(10, Path(directory)))
        worker.store.evalsha_batch = grant_all  # type: ignore[method-assign, assignment] # the edge, faked
        for name in ("records", "told_groups", "told_organizations"):
            setattr(worker.ledger.registry, name, nothing)
        worker.spend.take_cards(compile_cards(dt.datetime.now(dt.UTC).date()))
        now = worker.paths.configuration.now
        worker.paths.configuration.now = replace(now, upstream=Upstream())  # the other edge
        for ratio in (None, 1.0):
            turn_to(worker, ratio, endpoint)
            await one_round(worker, requests)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as in the worker
        kinds = list(KINDS)
        for number in range(rounds):
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                turn_to(worker, KINDS[kind], endpoint)
                found[kind].append(await one_round(worker, requests))
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=20)
    asked.add_argument("--requests", type=int, default=1600, help="a round; with 100 % the queue takes 2,048")
    given = asked.parse_args()
    ours, theirs = multiprocessing.Pipe()
    sink = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    sink.start()
    endpoint = f"http://127.0.0.1:{ours.recv()}"
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # log lines are written, to nowhere
    for kind, rows in uvloop.run(measure(endpoint, given.rounds, given.requests)).items():
        loop, process = ([row[place] for row in rows] for place in (0, 1))
        print(
            f"{kind:>9}: loop least {min(loop):.1f}, median {statistics.median(loop):.1f} µs; "
            f"process least {min(process):.1f}, median {statistics.median(process):.1f} µs",
            flush=True,
        )
    sink.kill()
    os._exit(0)  # nothing here is worth closing


if __name__ == "__main__":
    main()
