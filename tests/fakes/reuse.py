"""Pools whose answers are kept or shared, below the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore
from quotapool.domain.request_record import RequestRecord

from tests.fakes.connect import PATIENT_S, connect
from tests.fakes.edge import DONE, Client, Reply, chat_body, delta, event, says, usage_chunk
from tests.fakes.house import House

ALL = {"models": ["*"], "clients": "all"}
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
ROLE = event({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
WORDS = delta(content="Hel"), delta(content="lo")
EVENTS = ROLE, *WORDS, END, usage_chunk(10, 20), DONE
TWO = [{"id": "app", "key": "key-of-the-app-0001"}, {"id": "web", "key": "key-of-the-web-0001"}]

FORMS = {"plain": {}, "stream": {"stream": True}, "usage": {"stream": True, "stream_options": {"include_usage": True}}}


class Pool:
    """A house with a cache, as each process has one."""

    def __init__(self, house: House, url: str) -> None:
        self.house = house
        self.upstream = house.upstream
        self.store = connect(url)
        secrets = CacheSecrets(bytes(32), house.settings.pool)
        self.cache = CacheStore(self.store, house.settings.pool, secrets, 2**20, patience_s=PATIENT_S)
        house.paths.reuse.store = self.cache
        self.running = asyncio.create_task(self.cache.run())
        self.records: list[RequestRecord] = []

    @property
    def calls(self) -> int:
        return len(self.upstream.sent)

    async def ask(self, client: Client) -> Client:
        record = RequestRecord(f"test-{len(self.records)}", time.monotonic(), client.method)
        self.records.append(record)
        await self.house.serve(client, record)
        return client

    async def asks(self, **more: Any) -> Client:
        return await self.ask(Client(chat_body(**more)))

    async def kept(self) -> None:
        """Until what was put is in the store."""
        await asyncio.sleep(0.5)

    async def close(self) -> None:
        self.running.cancel()
        await self.cache.close()
        await self.store.close()


@pytest.fixture
async def open_cached(open_pool, valkey_url):
    async with contextlib.AsyncExitStack() as stack:

        async def opened(accounts=None, *, cache=None, **options) -> Pool:
            house = await open_pool(accounts or {"a": 1, "b": 1}, cache={**ALL, **(cache or {})}, **options)
            pool = Pool(house, valkey_url)
            stack.push_async_callback(pool.close)
            return pool

        yield opened


def result(client: Client) -> str | None:
    return client.header("x-quotapool-cache")


def text_of(client: Client) -> str:
    """What the model said, in whichever form."""
    if client.header("content-type") == "application/json":
        return str(json.loads(client.got)["choices"][0]["message"]["content"])
    found = [json.loads(line[6:]) for line in client.got.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found if chunk["choices"])


async def together(pool: Pool, clients: list[Client]) -> list[asyncio.Task[Client]]:
    """All wait for the first one's answer."""
    tasks = []
    for client in clients:
        tasks.append(asyncio.create_task(pool.ask(client)))
        await asyncio.sleep(0.01)
    return tasks


def choice(**more: Any) -> Reply:
    message = {"role": "assistant", "content": "Hi", **more.pop("message", {})}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chosen = {"index": 0, "message": message, "finish_reason": "stop", **more.pop("choice", {})}
    return says(200, {"id": "chatcmpl-1", "choices": [chosen], "usage": usage, **more})


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
UNKEPT = {
    "refusal": choice(message={"content": None, "refusal": "No."}),
    "tool_calls": choice(message={"content": None, "tool_calls": [CALL]}, choice={"finish_reason": "tool_calls"}),
    "content_filter": choice(choice={"finish_reason": "content_filter"}),
    "no_usage": choice(usage=None),
    "too_large": choice(message={"content": "x" * 2000}),
    "encoded": choice().named(Content_Encoding="identity"),
}
