"""Where a request's microseconds go: the pure steps of the request path, each alone, for one chat request.

    python benchmarks/request_steps.py          # a table: the least of several runs, µs of one core

What cannot be measured alone (sockets, the event loop, the store's round trip) is what docs/performance.md finds as the
rest. Warm caches and no other work make these figures a lower bound of what a step costs in a busy worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))

from quotapool.domain.access import Use
from quotapool.domain.pool import Key, Pool
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.ledger.clients import digest
from quotapool.observe import shared_values
from quotapool.observe.labels import Labels
from quotapool.observe.log_writer import LogWriter
from quotapool.observe.metrics import Metrics
from quotapool.observe.redaction import Redactor
from quotapool.observe.reporter import Reporter
from quotapool.observe.request_log import RequestLog
from quotapool.openai import endpoints, headers, ratelimits, requests, usage
from quotapool.openai.head import Head
from quotapool.openai.sse import StreamRelay
from quotapool.request.auth import ClientAuth
from rig.load import QUESTION
from rig.upstream import JSON, WORD

REPEAT, NUMBER = 7, 3_000
MODEL, KEY = "gpt-4o-mini", "qp-client-bench-0123456789abcdef"
BODY = msgspec.json.encode({"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 256})
ASKED = Head(
    [
        (b"Host", b"127.0.0.1:8080"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"User-Agent", b"OpenAI/Python 3.54.0"),
        (b"X-Stainless-Lang", b"python"),
        (b"X-Stainless-Retry-Count", b"0"),
        (b"Authorization", b"Bearer %b" % KEY.encode()),
        (b"Content-Length", b"%d" % len(BODY)),
    ]
)
HEAD, _, WHOLE = JSON.partition(b"\r\n\r\n")
ANSWERED = Head([(name, value) for name, _, value in (line.partition(b": ") for line in HEAD.split(b"\r\n")[1:])])
EVENT = WORD.partition(b"\r\n")[2].removesuffix(b"\r\n")
PAYLOAD = [1, MODEL, 1.0, 478.0, 0.0, True, 0.5, [b"x" * 40, b"y" * 40], [], 0.0, "", 12345.678, False]
SETTLED = [
    2,
    MODEL,
    "acme",
    60.0,
    1e8,
    1e11,
    -1.0,
    -1.0,
    -1.0,
    0.0,
    0.0,
    0.0,
    230.0,
    0.0,
    12345.678,
    [(0, 1.0, 9.0)],
    0,
]


def trip() -> RequestRecord:
    leg = AttemptRecord("key-12345678", "key-12345678", 0.0, "ok", status=200, took_s=0.4)
    leg.usage = Usage(Certainty.EXACT, 221, 27)
    made = RequestRecord(
        "0123456789abcdef", 100.0, client="bench", endpoint="chat", model=MODEL, status=200, source="upstream"
    )
    made.attempts, made.first_byte, made.ended, made.upstream_s = [leg], 100.4, 100.5, 0.4
    return made


def steps(directory: Path) -> dict[str, Callable[[], object]]:
    """By what docs/performance.md calls them."""
    gate = ClientAuth()
    gate.configure(clients={digest(KEY): "bench"}, hosts=(), origins=(), allow_anonymous=False)
    pool = Pool(Key(f"k{i}", f"k{i}", f"f{i}") for i in range(1_000))
    rng = random.Random(1)
    shared_values.install(directory, "0")
    labels = Labels(models=[MODEL], clients=["bench"], endpoints=endpoints.NAMES)
    writer = LogWriter(os.open(os.devnull, os.O_WRONLY))
    log = RequestLog(writer, Redactor())
    silent = Reporter(Metrics(CollectorRegistry()), labels, RequestLog(writer, Redactor(), enabled=False))
    loud = Reporter(silent._metrics, labels, log)  # noqa: SLF001 - the same series, and a line
    done, pack = trip(), msgspec.msgpack.Encoder().encode
    relay = StreamRelay("chat", strip_usage=False)
    return {
        "gate: the client's key": lambda: gate.enter(ASKED),
        "endpoint": lambda: endpoints.resolve("POST", "/v1/chat/completions"),
        "read and estimate the JSON request": lambda: requests.read_request("chat", BODY),
        "choose two accounts of 1,000": lambda: pool.pick(
            MODEL, Use(MODEL), now=1e9, rng=rng, may_try_resting=True, few=True
        ),
        "pack a reserve and a settle": lambda: pack([PAYLOAD, SETTLED]),
        "headers up": lambda: headers.headers_for_upstream(ASKED, (b"Authorization", b"Bearer sk-0")),
        "read the rate headers": lambda: ratelimits.read(ANSWERED),
        "headers down": lambda: headers.headers_for_client(ANSWERED, secret="sk-benchmark-0"),
        "usage of the JSON answer": lambda: usage.read_usage(WHOLE),
        "metrics: the attempt": lambda: silent.attempted(done.attempts[0], done),
        "metrics: the request": lambda: silent.ended(done),
        "metrics and log line of the request": lambda: loud.ended(done),
        "an event of a stream": lambda: relay.feed(EVENT),
    }


async def main(number: int) -> None:
    """In an event loop, as a worker is: there the log is written in batches."""
    with tempfile.TemporaryDirectory() as directory:
        print(f"{'step':<40}{'µs':>8}")
        for name, step in steps(Path(directory)).items():
            least = min(timeit.repeat(step, repeat=REPEAT, number=number)) / number * 1e6
            print(f"{name:<40}{least:>8.2f}")


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--number", type=int, default=NUMBER, help="how often a run does a step")
    asyncio.run(main(asked.parse_args().number))
