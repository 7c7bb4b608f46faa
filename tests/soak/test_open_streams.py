"""1,000 open streams and 500 WebSocket sessions on one worker at the same time: memory of each, and all end well."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from tests.fakes.processes import pool_config, wait_until
from tests.soak.test_websockets import opened_sessions, resident_kib, talk

STREAMS, SESSIONS = 1_000, 500
MODEL = "gpt-4o-mini"
TOKENS = 40  # of each stream
TOKENS_PER_S = 1.0  # so that all streams are open for a while
MOST_KIB = 100  # a stream or a session; measured: docs/passthrough.md, docs/websockets.md
BODY = {"model": MODEL, "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "hello " * 100}]}


async def streamed(http: aiohttp.ClientSession, url: str, first: asyncio.Semaphore) -> tuple[int, int, bool]:
    """(status, chunks with content, ended with [DONE]) of one stream; `first` is released with its first chunk."""
    chunks, done, told = 0, False, False
    async with http.post(f"{url}/chat/completions", json=BODY) as answer:
        async for line in answer.content:
            if not told:
                first.release()
                told = True
            done = line.startswith(b"data: [DONE]")
            if done:
                break
            if line.startswith(b"data: "):
                chunks += bool(json.loads(line[6:])["choices"][0]["delta"].get("content"))
    return answer.status, chunks, done


async def test_1000_streams_and_500_sessions_on_one_worker(start_simulator, start_proxy, capsys):
    simulator = start_simulator(
        5, "--rpm", "0", "--tpm", "0", "--tokens-per-second", str(TOKENS_PER_S), "--completion-tokens", str(TOKENS)
    )
    unlimited = {"limits": {"default": {"rpm": 1_000_000, "tpm": 10**9}}}
    # One address has three quarters of the places, and here all clients have one.
    places = {"max_concurrent": 2 * (STREAMS + SESSIONS)}
    proxy = start_proxy(pool_config(simulator, drain_timeout=1, **unlimited, **places))
    (worker,) = proxy.worker_pids()
    sdk = AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)
    first = asyncio.Semaphore(0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(300)) as http:
        (warm,) = await opened_sessions(sdk, 1)
        await talk(warm, 3)
        before, began = resident_kib(worker), time.monotonic()
        running: list[asyncio.Task[tuple[int, int, bool]]] = []
        for _ in range(STREAMS // 100):
            running += [asyncio.create_task(streamed(http, proxy.base_url, first)) for _ in range(100)]
            for _ in range(100):
                await first.acquire()
        opened_s = time.monotonic() - began
        with_streams = resident_kib(worker)
        assert not any(task.done() for task in running), "all are open at the same time"
        sessions = await opened_sessions(sdk, SESSIONS)
        assert not any(task.done() for task in running), "and the sessions beside them"
        with_both = resident_kib(worker)
        await asyncio.gather(*(talk(connection, 1) for connection in sessions))
        busy = resident_kib(worker)
        ends = await asyncio.gather(*running)
        await asyncio.gather(*(connection.close() for connection in [*sessions, warm]))
    figures: dict[str, Any] = {
        "streams": STREAMS,
        "sessions": SESSIONS,
        "before_kib": before,
        "streams_opened_s": round(opened_s, 1),
        "per_stream_kib": round((with_streams - before) / STREAMS, 1),
        "per_session_kib": round((with_both - with_streams) / SESSIONS, 1),
        "per_session_after_talking_kib": round((busy - with_streams) / SESSIONS, 1),
        "whole_kib": busy,
        "took_s": round(time.monotonic() - began, 1),
    }
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")
    assert set(ends) == {(200, TOKENS, True)}
    wait_until(lambda: proxy.total("quotapool_websockets_open") == 0, "all sessions are counted out")
    assert figures["per_stream_kib"] < MOST_KIB
    assert figures["per_session_after_talking_kib"] < MOST_KIB
