"""500 sessions on one worker: how much memory each takes, while all of them talk, and whether it comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tests.fakes.processes import pool_config, wait_until

SESSIONS = 500
MODEL = "gpt-realtime"
MOST_KIB = 100  # a session; measured: docs/websockets.md
HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello " * 100}]}


def resident_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


async def talk(connection: AsyncRealtimeConnection, turns: int) -> None:
    for _ in range(turns):
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        while (await connection.recv()).type != "response.done":
            pass


async def opened_sessions(sdk: AsyncOpenAI, count: int) -> list[AsyncRealtimeConnection]:
    """So many sessions, each greeted; 50 at a time."""

    async def opened() -> AsyncRealtimeConnection:
        connection = await sdk.realtime.connect(model=MODEL).enter()
        await connection.recv()
        return connection

    connections: list[AsyncRealtimeConnection] = []
    for begun in range(0, count, 50):
        connections += await asyncio.gather(*(opened() for _ in range(min(50, count - begun))))
    return connections


async def test_500_sessions_on_one_worker(start_simulator, start_proxy, capsys):
    simulator = start_simulator(5)
    proxy = start_proxy(pool_config(simulator, drain_timeout=1))
    (worker,) = proxy.worker_pids()
    sdk = AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)
    (warm,) = await opened_sessions(sdk, 1)
    await talk(warm, 3)
    before = resident_kib(worker)
    connections = await opened_sessions(sdk, SESSIONS)
    idle = resident_kib(worker)
    await asyncio.gather(*(talk(connection, 2) for connection in connections))
    busy = resident_kib(worker)
    assert proxy.total("quotapool_websockets_open") == SESSIONS + 1
    figures = {
        "sessions": SESSIONS,
        "before_kib": before,
        "per_session_idle_kib": round((idle - before) / SESSIONS, 1),
        "per_session_after_talking_kib": round((busy - before) / SESSIONS, 1),
    }
    await asyncio.gather(*(connection.close() for connection in [*connections, warm]))
    wait_until(lambda: proxy.total("quotapool_websockets_open") == 0, "all sessions are counted out")
    connections = await opened_sessions(sdk, SESSIONS)
    await asyncio.gather(*(talk(connection, 2) for connection in connections))
    figures["second_time_kib"] = resident_kib(worker) - busy
    await asyncio.gather(*(connection.close() for connection in connections))
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")
    assert figures["per_session_after_talking_kib"] < MOST_KIB
    assert figures["second_time_kib"] < 0.5 * (busy - before)  # what the first 500 left is used again
