"""What operators see of the cache, and how they delete what it keeps."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.domain.wallet import PICO
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore
from quotapool.operators.cache import CacheOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.shapes.cache import CacheSavingsRow, CacheSums
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect
from tests.fakes.kept_answers import keep
from tests.fakes.store import ledger_on

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
async def store(valkey_url):
    connection = connect(valkey_url)
    yield connection
    await connection.close()


@pytest.fixture
def cache(store, tmp_path) -> CacheOperations:
    options = {"models": ["gpt-5*"], "max_size": "8MiB"}
    settings = Settings.model_validate({"pool": "test", "state_dir": tmp_path, "cache": options})
    return CacheOperations(lambda: settings, store)


async def test_it_is_shown_what_is_kept_and_of_whom(store, cache):
    await keep(store, "test", ("app", "gpt-5"), ("app", "gpt-5"), ("app", "gpt-5-mini"), ("", "gpt-5"))
    state = await cache.state(NOW)
    assert (state.patterns, state.max_bytes) == (["gpt-5*"], 8 * 2**20)
    assert state.entries == 4
    assert [(share.name, share.entries) for share in state.clients] == [("app", 3), ("anonymous", 1)]
    assert [(share.name, share.entries) for share in state.models] == [("gpt-5", 3), ("gpt-5-mini", 1)]
    assert sum(share.bytes for share in state.clients) == state.bytes
    assert state.bytes > 4 * 1_000


async def test_it_is_shown_what_the_cache_did_and_saved(store, cache):
    counter = SpendCounter(SpendStore(store, "test"), Observer(), now=lambda: NOW)
    for result, saved in (("hit", Saved(1, 1_000, 20, PICO // 4)), ("coalesced", Saved(1, 1, 0, None)), ("miss", None)):
        counter.cached(RequestRecord("qp_1", 0.0, client="app", model="gpt-5", cache=result, saved=saved))
    assert await counter.flush()
    state = await cache.state(NOW)
    assert state.since == "2026-11-01T00:00:00Z"
    assert state.today == state.month == CacheSums(1, 1, 1, 0, 2, 1_001, 20, 0.25, 1)
    assert state.saved == [CacheSavingsRow("app", "gpt-5", 2, 1_001, 20, 0.25, 1)]


@pytest.mark.parametrize(
    ("client", "model", "deleted", "left"),
    [
        (None, None, 4, []),
        ("app", None, 2, ["anonymous", "web"]),
        ("app", "gpt-5", 1, ["app", "anonymous", "web"]),
        (None, "gpt-5-mini", 1, ["app", "anonymous", "web"]),
        ("anonymous", None, 1, ["app", "web"]),
        ("nobody", None, 0, ["app", "anonymous", "web"]),
    ],
)
async def test_what_is_kept_can_be_deleted_by_client_and_model(store, cache, client, model, deleted, left):
    await keep(store, "test", ("app", "gpt-5"), ("app", "gpt-5-mini"), ("web", "gpt-5"), ("", "gpt-5"))
    assert await cache.clear(client, model) == deleted
    state = await cache.state(NOW)
    assert state.entries == 4 - deleted
    assert {share.name for share in state.clients} == set(left)


async def test_another_pools_answers_stay(store, cache):
    await keep(store, "other", ("app", "gpt-5"))
    assert await cache.clear(None, None) == 0
    assert (await cache.state(NOW)).entries == 0


async def test_a_scrape_shows_what_is_kept_and_counts_what_left(store, tmp_path):
    options = {"pool": "test", "state_dir": tmp_path, "cache": {"models": ["gpt-5*"], "max_size": "8MiB"}}
    overview = Overview(Settings.model_validate(options), ledger_on(store))
    await keep(store, "test", ("app", "gpt-5"))

    async def shown() -> dict[str, float]:
        await overview.refresh_metrics()
        found = re.findall(r"^quotapool_cache_(\w+) (\S+)$", "".join(overview.metrics.text()), re.MULTILINE)
        return {name: float(value) for name, value in found}

    first = await shown()
    assert (first["entries"], first["limit_bytes"]) == (1, 8 * 2**20)
    assert first["bytes"] > 1_000
    # When the store has counted 5 that were evicted, then 2 more, and then lost all its data
    for by, evicted in ((5, 5), (2, 7)):
        await store.client.hincrby("qp:{test:cache}:sums", "evicted", by)
        assert (await shown())["evicted_total"] == evicted
    await store.client.delete("qp:{test:cache}:sums")
    assert (await shown())["evicted_total"] == 7
    await store.client.hincrby("qp:{test:cache}:sums", "evicted", 1)
    assert (await shown())["evicted_total"] == 8


async def test_a_scrape_of_a_pool_without_a_cache_asks_for_none(store, tmp_path):
    overview = Overview(Settings.model_validate({"pool": "test", "state_dir": tmp_path}), ledger_on(store))
    await keep(store, "test", ("app", "gpt-5"))
    await overview.refresh_metrics()
    text = "".join(overview.metrics.text())
    assert "quotapool_cache_entries 0.0" in text
    assert "quotapool_cache_limit_bytes 0.0" in text


async def test_without_a_store_it_is_said_so(tmp_path):
    settings = Settings.model_validate({"pool": "test", "state_dir": tmp_path})
    away = CacheOperations(lambda: settings, connect("redis://127.0.0.1:1/0"))
    with pytest.raises(StoreLost):
        await away.state(NOW)
    with pytest.raises(StoreLost):
        await away.clear(None, None)
