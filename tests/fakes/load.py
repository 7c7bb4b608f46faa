"""The load driver of the end-to-end and soak tests: real clients over real sockets, bounded in time and number.

    with Load(proxy.base_url, clients=16, seconds=10) as load:   # closed loop: 16 clients, each with one connection
        ...                                                      # kill something, look at metrics
        load.stop()                                              # nobody begins another request
    assert not load.errors

    with Load(url, rate=15, seconds=120) as load:                # open loop: 15 requests a second, come what may

It runs in a thread of its own, so that the test can use blocking helpers beside it. Nothing is retried.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import aiohttp

MODEL = "gpt-4o-mini"
_LONGEST_S = 60.0  # no request may take longer
_MOST_OPEN = 2_000


class End(StrEnum):
    """How a request ended for its client."""

    OK = "ok"  # a 2xx answer, whole
    STATUS = "status"  # a whole answer with another status
    LEFT = "left"  # the client itself broke it off, as it was asked to
    LOST = "lost"  # the connection broke before the answer began
    CUT = "cut"  # the answer broke off, and HTTP shows that it did
    SHORT = "short"  # HTTP says the answer is whole, and it is not: what must never be
    EVENT = "event"  # a whole answer under status 200 that carries an error
    UNREACHED = "unreached"  # no connection came about
    LATE = "late"  # no end within a minute


class Kind(StrEnum):
    """What is asked."""

    CHAT = "chat"
    STREAM = "stream"
    STREAM_USAGE = "stream_usage"
    RESPONSES = "responses"
    RESPONSES_STREAM = "responses_stream"
    EMBEDDINGS = "embeddings"


STREAMS = frozenset({Kind.STREAM, Kind.STREAM_USAGE, Kind.RESPONSES_STREAM})
MIXED = tuple(Kind)


@dataclass(slots=True)
class Record:
    """One request. Times are `time.monotonic()`; `port` is the client's own, where it has but one connection."""

    kind: Kind
    started: float
    ended: float = 0.0
    end: End = End.LATE
    status: int = 0
    detail: str = ""
    port: int = 0

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class _NoMore(Exception):
    """A client that was told to open no further connection would need one."""


def request_of(kind: Kind, serial: int, model: str, max_tokens: int | None) -> tuple[str, dict[str, Any]]:
    """(path, JSON body) of a request of this kind; `serial` makes each one different."""
    text = f"request {serial}: say something of some length about token buckets"
    messages = [{"role": "user", "content": text}]
    if kind is Kind.EMBEDDINGS:
        return "/embeddings", {"model": model, "input": text}
    if kind in {Kind.RESPONSES, Kind.RESPONSES_STREAM}:
        body: dict[str, Any] = {"model": model, "input": text, "stream": kind is Kind.RESPONSES_STREAM}
        if max_tokens is not None:
            body["max_output_tokens"] = max_tokens
        return "/responses", body
    body = {"model": model, "messages": messages, "stream": kind is not Kind.CHAT}
    if kind is Kind.STREAM_USAGE:
        body["stream_options"] = {"include_usage": True}
    if max_tokens is not None:
        body["max_completion_tokens"] = max_tokens
    return "/chat/completions", body


class Load:
    """`clients` in closed loop, or `rate` requests a second in open loop, for `seconds` and at most `most` requests.

    `leave`: share of streams (0..1) whose clients break them off after the first bytes of the answer.
    `key`: the clients' key, where they need one.
    """

    def __init__(
        self,
        *base_urls: str,
        clients: int = 0,
        rate: float = 0.0,
        seconds: float = 30.0,
        most: int = 50_000,
        mix: Sequence[Kind] = MIXED,
        model: str = MODEL,
        max_tokens: int | None = None,
        leave: float = 0.0,
        key: str = "",
    ) -> None:
        assert bool(clients) != bool(rate), "either closed loop or open loop"
        self.records: list[Record] = []
        self._urls, self._clients, self._rate = base_urls, clients, rate
        self._seconds, self._most, self._mix = seconds, most, mix
        self._model, self._max_tokens, self._leave = model, max_tokens, leave
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._begun = 0
        self._stopping, self._keep = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._rng = random.Random(7)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self.stop()
        self._thread.join(self._seconds + _LONGEST_S + 10.0)
        assert not self._thread.is_alive(), "the load does not end"

    def stop(self) -> None:
        """Begin no further request; what is under way goes on to its end."""
        self._stopping.set()

    def open_no_more(self) -> None:
        """Closed loop only: each client goes on until its connection is closed, and opens no other."""
        self._keep.set()

    # ---- what came of it

    @property
    def ends(self) -> Counter[str]:
        """How many ended how; other statuses by number."""
        return Counter(str(r.status) if r.end is End.STATUS else r.end.value for r in self.records)

    @property
    def errors(self) -> list[Record]:
        """All that did not end well for their clients."""
        return [r for r in self.records if r.end not in {End.OK, End.LEFT}]

    @property
    def done(self) -> int:
        return len(self.records)

    def seconds_of(self, *kinds: Kind) -> list[float]:
        """Durations of the successful ones, sorted."""
        return sorted(r.seconds for r in self.records if r.end is End.OK and (not kinds or r.kind in kinds))

    def longest_silence(self, since: float, until: float) -> float:
        """Seconds of the longest time between `since` and `until` in which nothing ended well."""
        ends = sorted(r.ended for r in self.records if r.end is End.OK and since <= r.ended <= until)
        moments = [since, *ends, until]
        return max(b - a for a, b in itertools.pairwise(moments))

    def __str__(self) -> str:
        took = self.seconds_of()
        if not took:
            return f"{dict(self.ends)}"
        p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
        return f"{dict(self.ends)}; ms p50 {p50 * 1e3:.0f}, p99 {p99 * 1e3:.0f}, max {took[-1] * 1e3:.0f}"

    # ---- how it runs

    async def _run(self) -> None:
        until = time.monotonic() + self._seconds
        if self._clients:
            await asyncio.gather(*(self._client(n, until) for n in range(self._clients)))
            return
        connector = aiohttp.TCPConnector(limit=_MOST_OPEN)
        async with aiohttp.ClientSession(connector=connector, timeout=_timeout()) as session:
            first, tasks = time.monotonic(), set[asyncio.Task[Any]]()
            while not self._over(until):
                await asyncio.sleep(max(0.0, first + self._begun / self._rate - time.monotonic()))
                tasks.add(asyncio.create_task(self._one(session, self._url(self._begun))))
            await asyncio.gather(*tasks)

    async def _client(self, number: int, until: float) -> None:
        """One client with one connection at a time, and a new one when that is gone."""
        ports = [0]

        def bound(address: Any) -> socket.socket:
            if self._keep.is_set():
                raise _NoMore
            made = socket.socket(address[0], address[1])
            made.setblocking(False)
            made.bind(("127.0.0.1", 0))
            ports.append(made.getsockname()[1])
            return made

        connector = aiohttp.TCPConnector(limit=1, socket_factory=bound)
        async with aiohttp.ClientSession(connector=connector, timeout=_timeout()) as session:
            while not self._over(until):
                try:
                    record = await self._one(session, self._url(number))
                except _NoMore:
                    return
                record.port = ports[-1]
                if record.end in {End.UNREACHED, End.LOST}:
                    await asyncio.sleep(0.05)

    def _over(self, until: float) -> bool:
        return self._stopping.is_set() or self._begun >= self._most or time.monotonic() > until

    def _url(self, number: int) -> str:
        return self._urls[number % len(self._urls)]

    async def _one(self, session: aiohttp.ClientSession, base_url: str) -> Record:
        serial, self._begun = self._begun, self._begun + 1
        kind = self._mix[serial % len(self._mix)]
        path, body = request_of(kind, serial, self._model, self._max_tokens)
        leaves = kind in STREAMS and self._rng.random() < self._leave
        record = Record(kind, time.monotonic())
        answer: aiohttp.ClientResponse | None = None
        try:
            answer = await session.post(base_url + path, json=body, headers=self._headers)
            record.status = answer.status
            if leaves and answer.status == 200:
                await answer.content.readany()
                answer.close()
                record.end = End.LEFT
            else:
                record.end, record.detail = _judge(kind, answer.status, await answer.read())
        except aiohttp.ClientConnectorError as error:
            record.end, record.detail = End.UNREACHED, repr(error)
        except TimeoutError:
            record.detail = "timeout"
        except (aiohttp.ClientError, OSError) as error:
            record.end, record.detail = (End.LOST if answer is None else End.CUT), repr(error)
        record.ended = time.monotonic()
        self.records.append(record)
        return record


def _judge(kind: Kind, status: int, body: bytes) -> tuple[End, str]:
    """Whether the body of an answer that HTTP calls whole really is, by what its kind must end with."""
    if status != 200:
        return End.STATUS, body[:500].decode(errors="replace")
    if kind in STREAMS:
        if b"event: error" in body or b'data: {"error"' in body or b"response.failed" in body:
            return End.EVENT, body[-500:].decode(errors="replace")
        last = b"response.completed" if kind is Kind.RESPONSES_STREAM else b"data: [DONE]"
        if last not in body[-4000:]:
            return End.SHORT, body[-200:].decode(errors="replace")
        if kind is Kind.STREAM and b'"usage"' in body:
            return End.SHORT, "usage that nobody asked for"
        if kind is Kind.STREAM_USAGE and b'"total_tokens"' not in body:
            return End.SHORT, "no usage"
        return End.OK, ""
    if kind is Kind.RESPONSES and b'"status": "failed"' in body:
        return End.EVENT, body[:500].decode(errors="replace")
    try:
        return (End.OK, "") if json.loads(body)["usage"]["total_tokens"] > 0 else (End.SHORT, "no usage")
    except (ValueError, KeyError, TypeError):
        return End.SHORT, body[-200:].decode(errors="replace")


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_LONGEST_S)
