"""A language model and a server that none of us wrote, behind the proxy: what it counted is what we counted.

Three parties report tokens here: llama.cpp in the `usage` of its answers, llama.cpp in its own /metrics (which
also sees the streams whose client never asked for usage), and the proxy in `quotapool_tokens_total`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from openai import AsyncOpenAI, AuthenticationError

MODEL_SERVER = Path(__file__).parents[2] / "demo" / "model_server.py"
SERVER_KEYS = {"alpha": "sk-model-alpha", "bravo": "sk-model-bravo", "charlie": "sk-model-charlie"}
MODEL = "smollm2"
MAX_TOKENS = 8
CHATS = 8
DIMENSIONS = 576  # of SmolLM2-135M's hidden states, as its authors published them

Labels = frozenset[tuple[str, str]]


class RunningProxy(Protocol):
    """What tests/end_to_end/conftest.py hands out."""

    base_url: str

    def metrics(self) -> dict[tuple[str, Labels], float]: ...


StartProxy = Callable[[dict[str, Any]], RunningProxy]


@dataclass(frozen=True)
class Tokens:
    """Tokens of all calls together; `cached` is a part of `prompt`."""

    prompt: int
    completion: int
    cached: int

    def since(self, before: Tokens) -> Tokens:
        return Tokens(self.prompt - before.prompt, self.completion - before.completion, self.cached - before.cached)


@dataclass(frozen=True)
class ModelServer:
    address: str  # http://127.0.0.1:PORT

    def counted(self) -> Tokens:
        """llama.cpp's own counters; its `prompt_tokens_total` leaves out what came from its cache."""
        request = urllib.request.Request(
            f"{self.address}/metrics", headers={"authorization": f"Bearer {SERVER_KEYS['alpha']}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        value = dict(line.split() for line in lines if line.startswith("llamacpp:"))
        cached = int(value["llamacpp:prompt_tokens_cached_total"])
        return Tokens(
            prompt=int(value["llamacpp:prompt_tokens_total"]) + cached,
            completion=int(value["llamacpp:tokens_predicted_total"]),
            cached=cached,
        )


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    # One thread: llama.cpp's threads wait for each other by spinning, which a busy machine punishes tenfold.
    options = ["--port", "0", "--keys", ",".join(SERVER_KEYS.values()), "--threads", "1"]
    command = [sys.executable, str(MODEL_SERVER), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stdout.readline() if process.stdout else ""
            if not ready:
                reason = process.stderr.read() if process.stderr else ""
                if process.wait(timeout=10) == 3:
                    pytest.skip(reason)
                pytest.fail(f"the model server did not start: {reason}")
            yield ModelServer(ready.split()[-1])
        finally:
            process.terminate()


@pytest.fixture
def proxy(start_proxy: StartProxy, model_server: ModelServer) -> RunningProxy:
    return start_proxy(pool_of(SERVER_KEYS, model_server))


@pytest.fixture
async def client(proxy: RunningProxy) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=proxy.base_url, api_key="any", max_retries=0, timeout=60) as sdk:
        yield sdk


def pool_of(keys: dict[str, str], server: ModelServer) -> dict[str, Any]:
    return {
        "upstream": f"{server.address}/v1",
        "keys": [{"id": name, "secret": secret} for name, secret in keys.items()],
        "limits": {"default": {"rpm": 6000, "tpm": 6_000_000}},
    }


def question(number: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Tell me about the number {number}."}],
        "max_tokens": MAX_TOKENS,
    }


def counted_by(proxy: RunningProxy) -> Tokens:
    kinds: Counter[str] = Counter()
    for (name, labels), value in proxy.metrics().items():
        if name == "quotapool_tokens_total":
            kinds[dict(labels)["kind"]] += round(value)
    return Tokens(kinds["prompt"], kinds["completion"], kinds["cached_prompt"])


async def settled(proxy: RunningProxy, expected: Tokens) -> Tokens:
    """The proxy's sums, given at most 5 s to become `expected`: settling is off the critical path."""
    until = time.monotonic() + 5
    while (counted := counted_by(proxy)) != expected and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return counted


async def test_the_model_server_knows_several_keys_and_refuses_all_others(model_server: ModelServer):
    async def ask(key: str) -> int:
        async with AsyncOpenAI(base_url=f"{model_server.address}/v1", api_key=key, max_retries=0) as sdk:
            answer = await sdk.chat.completions.create(**question(1))
            return answer.usage.completion_tokens

    for secret in SERVER_KEYS.values():
        assert 0 < await ask(secret) <= MAX_TOKENS
    with pytest.raises(AuthenticationError):
        await ask("sk-model-unknown")


async def test_the_model_servers_two_reports_agree_so_that_either_can_judge_the_proxy(
    model_server: ModelServer,
):
    before = model_server.counted()
    url = f"{model_server.address}/v1"
    async with AsyncOpenAI(base_url=url, api_key=SERVER_KEYS["alpha"], max_retries=0) as sdk:
        chat = await sdk.chat.completions.create(**question(2))
        vectors = await sdk.embeddings.create(model=MODEL, input=["one", "two words"])

    counted = model_server.counted().since(before)

    assert counted.prompt == chat.usage.prompt_tokens + vectors.usage.prompt_tokens
    assert counted.completion == chat.usage.completion_tokens


async def test_chats_through_the_pool_add_up_to_the_usage_the_server_reported(
    proxy: RunningProxy, client: AsyncOpenAI, model_server: ModelServer
):
    before = model_server.counted()

    answers = await asyncio.gather(*(client.chat.completions.create(**question(n)) for n in range(CHATS)))

    assert all(answer.choices[0].message.content for answer in answers)
    reported = Tokens(
        prompt=sum(answer.usage.prompt_tokens for answer in answers),
        completion=sum(answer.usage.completion_tokens for answer in answers),
        cached=sum(answer.usage.prompt_tokens_details.cached_tokens for answer in answers),
    )
    assert await settled(proxy, reported) == reported
    assert model_server.counted().since(before) == reported


async def test_the_three_keys_share_the_load(proxy: RunningProxy, client: AsyncOpenAI):
    # Keys that are about equally free are picked at random: that one of three stays unused 60 times
    # in a row happens once in ten thousand million runs.
    for _ in range(5):
        await asyncio.gather(*(client.embeddings.create(model=MODEL, input=f"number {n}") for n in range(12)))

    until = time.monotonic() + 5
    used: set[str] = set()
    while used != set(SERVER_KEYS) and time.monotonic() < until:
        used = {
            dict(labels)["key"]
            for (name, labels), value in proxy.metrics().items()
            if name == "quotapool_tokens_total" and value > 0
        }
        await asyncio.sleep(0.05)
    assert used == set(SERVER_KEYS)


async def test_a_stream_that_asked_for_usage_gets_it_and_the_proxy_counts_the_same(
    proxy: RunningProxy, client: AsyncOpenAI, model_server: ModelServer
):
    before = model_server.counted()

    stream = await client.chat.completions.create(**question(3), stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    assert text_of(chunks)
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    counted = model_server.counted().since(before)
    assert (counted.prompt, counted.completion) == (usage.prompt_tokens, usage.completion_tokens)
    assert await settled(proxy, counted) == counted


async def test_a_stream_that_did_not_ask_for_usage_shows_none_and_is_counted_all_the_same(
    proxy: RunningProxy, client: AsyncOpenAI, model_server: ModelServer
):
    before = model_server.counted()

    streams = await asyncio.gather(*(client.chat.completions.create(**question(n), stream=True) for n in range(4)))
    transcripts = [[chunk async for chunk in stream] for stream in streams]

    for chunks in transcripts:
        assert text_of(chunks)
        assert all("usage" not in chunk.model_fields_set for chunk in chunks)
        assert all(chunk.choices for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason in {"length", "stop"}
    counted = model_server.counted().since(before)
    assert counted.prompt > 0
    assert 0 < counted.completion <= 4 * MAX_TOKENS
    assert await settled(proxy, counted) == counted


async def test_embeddings_come_whole_and_are_counted(
    proxy: RunningProxy, client: AsyncOpenAI, model_server: ModelServer
):
    before = model_server.counted()

    answer = await client.embeddings.create(model=MODEL, input=["a pool of keys", "a bucket of tokens"])

    assert [len(item.embedding) for item in answer.data] == [DIMENSIONS, DIMENSIONS]
    counted = model_server.counted().since(before)
    assert counted.prompt == answer.usage.prompt_tokens > 0
    assert counted.completion == 0
    assert await settled(proxy, counted) == counted


async def test_a_key_the_server_does_not_know_never_shows_to_a_client(
    start_proxy: StartProxy, model_server: ModelServer
):
    proxy = start_proxy(pool_of({"stranger": "sk-model-stranger", **SERVER_KEYS}, model_server))

    async with AsyncOpenAI(base_url=proxy.base_url, api_key="any", max_retries=0, timeout=60) as sdk:
        answers = await asyncio.gather(*(sdk.chat.completions.create(**question(n)) for n in range(CHATS)))

    assert all(answer.choices[0].message.content for answer in answers)


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
