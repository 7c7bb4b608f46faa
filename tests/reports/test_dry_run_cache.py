"""What the cache would do for a request: each answer is compared with what the request path then really does."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.operators.overview import Overview
from quotapool.reports.dry_run import DryRuns
from quotapool.shapes.work import DryRun

from tests.fakes.connect import connect
from tests.fakes.edge import Client, Reply, chat_answer
from tests.fakes.house import House, open_house
from tests.reports.test_dry_run import stored

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
TWO = [{"id": "app", "key": "a-client-key-of-the-app"}, {"id": "web", "key": "a-client-key-of-the-web"}]
EMBEDDINGS = "/v1/embeddings"


class Cached:
    def __init__(self, house: House, cache: CacheStore) -> None:
        self.house = house
        self._cache = cache

    async def would(self, body: dict[str, Any], endpoint: str = "/v1/chat/completions", client: str | None = None):
        before = await stored(self.house)
        house = self.house
        said = await DryRuns(Overview(house.settings, house.ledger), house.store).answer(DryRun(body, endpoint, client))
        assert await stored(self.house) == before  # not even when an entry was last used
        return said

    async def asks(self, body: dict[str, Any], endpoint: str = "/v1/chat/completions", key: str = "") -> Client:
        headers = [("Content-Type", "application/json")]
        client = await self.house.ask(Client(json.dumps(body).encode(), target=endpoint, key=key, more_headers=headers))
        assert client.status == 200
        await self._cache.flush()
        return client


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any):
    text = new_master_key()
    options = {"cache": {"models": ["*"]}, "master_key": text, **options}
    async with open_house(url, {"a": 1}, **options) as house:
        store, pool = connect(url), house.settings.pool
        cache = house.paths.reuse.store = CacheStore(store, pool, CacheSecrets.of(MasterKey(text), pool), 2**20)
        house.prices = PriceList(compile_cards(datetime.now(UTC).date()))
        yield Cached(house, cache)
        await cache.close()
        await store.close()


async def test_an_answer_is_missed_then_kept_then_served(valkey_url):
    async with opened(valkey_url) as pool:
        said = await pool.would(CHAT)
        assert (said.cache.result, said.verdict, len(said.candidates)) == ("miss", "served_now", 1)
        pool.house.upstream.next(chat_answer())
        assert (await pool.asks(CHAT)).header("x-quotapool-cache") == "miss"
        said = await pool.would(CHAT)
        assert (said.cache.result, said.verdict, said.candidates) == ("hit", "served_now", [])
        assert said.cause.startswith("The cache has its answer, 0 s old")
        assert (said.reserve, said.usd_at_most) == ({}, 0.0)
        assert (await pool.asks({**CHAT, "user": "another"})).header("x-quotapool-cache") == "hit"
        assert (await pool.would({**CHAT, "user": "another"})).cache.result == "hit"
        assert (await pool.would({**CHAT, "seed": 1})).cache.result == "miss"


async def test_what_is_kept_needs_no_key_and_no_money_of_today(valkey_url):
    async with opened(valkey_url, spend={"daily_limit_usd": 2}) as pool:
        pool.house.upstream.next(chat_answer())
        await pool.asks(CHAT)
        entry = Entry("a", "a1", "gpt-4o", "", "exact", pico=3 * 10**12)
        await SpendStore(pool.house.store, pool.house.settings.pool).add([entry])
        pool.house.paths.daily_limit.spent_until = time.time() + 3_600  # as the supervisor tells the workers
        record = Record(State.REMOVED, "invalid_api_key", 0.0)
        registry = pool.house.ledger.registry
        await registry.change_state(Subject.of_account("a"), record, rest_s=60, fingerprint="")
        await pool.house.sync.refresh()
        assert (await pool.would(CHAT)).verdict == "served_now"
        assert (await pool.asks(CHAT)).header("x-quotapool-source") == "cache"
        said = await pool.would({**CHAT, "seed": 1})
        assert (said.cache.result, said.verdict) == ("miss", "refused")
        assert "daily_limit_usd" in said.cause


@pytest.mark.parametrize(
    ("options", "body", "result", "words"),
    [
        ({}, {**CHAT, "web_search_options": {}}, "bypass", "tools run at OpenAI"),
        ({}, {**CHAT, "store": True}, "bypass", "stores its answer"),
        ({"cache": {"models": ["*"], "max_temperature": 0.5}}, CHAT, "bypass", "cache.max_temperature"),
        ({"cache": {"models": ["gpt-5*"]}}, CHAT, "off", "cache.models does not name its model"),
        ({"cache": {"models": ["*"], "clients": "named"}}, CHAT, "off", "Its client is not served"),
        ({"cache": {}}, CHAT, "off", "There is no cache"),
    ],
)
async def test_why_it_is_not_looked_up_is_told(valkey_url, options, body, result, words):
    async with opened(valkey_url, **options) as pool:
        said = await pool.would(body)
        assert (said.cache.result, said.verdict) == (result, "served_now")
        assert words in said.cache.cause
        pool.house.upstream.next(chat_answer())
        real = (await pool.asks(body)).header("x-quotapool-cache")
        assert real == ("bypass" if result == "bypass" else None)


async def test_one_client_s_answers_are_not_another_s(valkey_url):
    async with opened(valkey_url, clients=TWO) as pool:
        pool.house.upstream.next(chat_answer())
        await pool.asks(CHAT, key=TWO[0]["key"])
        assert (await pool.would(CHAT, client="app")).cache.result == "hit"
        assert (await pool.would(CHAT, client="web")).cache.result == "miss"


async def test_embeddings_are_told_by_input(valkey_url):
    async with opened(valkey_url) as pool:
        vectors = [{"object": "embedding", "index": n, "embedding": [0.5, 0.25]} for n in range(2)]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        answer = {"object": "list", "data": vectors, "model": "text-embedding-3-small", "usage": usage}
        headers = {"Content-Type": "application/json"}
        pool.house.upstream.next(Reply(headers=headers, pieces=[json.dumps(answer).encode()]))
        asked = {"model": "text-embedding-3-small", "input": ["one", "two"]}
        assert (await pool.would(asked, EMBEDDINGS)).cache.cause.startswith("The cache has none of its inputs")
        await pool.asks(asked, EMBEDDINGS)
        said = await pool.would({**asked, "input": ["two", "three", "two"]}, EMBEDDINGS)
        assert (said.cache.result, said.cache.cause[:34]) == ("miss", "The cache has 1 of its 2 inputs, a")
        assert (await pool.would({**asked, "input": ["two", "one"]}, EMBEDDINGS)).cache.result == "hit"
        assert (
            await pool.would({**asked, "input": ["two", "one"], "dimensions": 1}, EMBEDDINGS)
        ).cache.result == "miss"


async def test_nothing_is_told_of_entries_without_the_master_key(valkey_url):
    async with opened(valkey_url, master_key=None) as pool:
        said = await pool.would(CHAT)
        assert (said.cache.result, said.verdict) == ("unknown", "served_now")
        assert "no master key is known" in said.cache.cause
