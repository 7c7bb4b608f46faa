"""What the cache saved is counted by client and model, for each day, once, and read for today and the month."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.domain.wallet import PICO
from quotapool.money.cache_savings import cache_savings
from quotapool.money.question import question
from quotapool.money.rollups import DAY, HOUR, MINUTE
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore
from quotapool.money.spent import Spent
from quotapool.money.usage_report import report

from tests.fakes.connect import connect

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
CENT = PICO // 100


@pytest.fixture
async def store(valkey_url):
    connection = connect(valkey_url)
    yield SpendStore(connection, "test")
    await connection.close()


def a_record(cache: str, saved: Saved | None = None, client: str = "app", model: str = "gpt-5") -> RequestRecord:
    return RequestRecord("qp_1", 0.0, client=client, model=model, status=200, cache=cache, saved=saved)


async def count(store: SpendStore, *records: RequestRecord, at: datetime = NOW) -> None:
    counter = SpendCounter(store, Observer(), now=lambda: at)
    for record in records:
        counter.cached(record)
    assert await counter.flush()


async def test_requests_count_by_what_the_cache_did_and_savings_by_client_and_model(store):
    await count(
        store,
        a_record("miss"),
        a_record("bypass"),
        a_record("hit", Saved(1, 100, 20, 3 * CENT)),
        a_record("hit", Saved(1, 100, 20, 3 * CENT)),
        a_record("coalesced", Saved(1, 50, 10, CENT), client="nightly"),
    )
    found = await cache_savings(store, NOW)
    assert found.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert found.month.results == found.today.results == {"miss": 1, "bypass": 1, "hit": 2, "coalesced": 1}
    assert found.month.saved == Spent(exact=7 * CENT, requests=3, prompt_tokens=250, completion_tokens=50)
    assert found.rows == [
        ("app", "gpt-5", Spent(exact=6 * CENT, requests=2, prompt_tokens=200, completion_tokens=40)),
        ("nightly", "gpt-5", Spent(exact=CENT, requests=1, prompt_tokens=50, completion_tokens=10)),
    ]


async def test_today_is_a_part_of_the_month_and_a_month_ends_with_the_next(store):
    hit = a_record("hit", Saved(1, 100, 20, CENT))
    await count(store, hit, hit, at=NOW - timedelta(days=20))  # in October
    await count(store, hit, at=datetime(2026, 11, 1, tzinfo=UTC))
    await count(store, hit, at=NOW)
    found = await cache_savings(store, NOW)
    assert (found.today.results, found.month.results) == ({"hit": 1}, {"hit": 2})
    assert (found.today.saved.exact, found.month.saved.exact) == (CENT, 2 * CENT)
    assert (await cache_savings(store, NOW - timedelta(days=20))).month.results == {"hit": 2}


async def test_what_has_no_known_price_is_counted_and_told(store):
    await count(store, a_record("hit", Saved(1, 100, 20, None)), a_record("hit", Saved(1, 0, 0, 0)))
    assert (await cache_savings(store, NOW)).month.saved == Spent(
        unpriced_requests=1, requests=2, prompt_tokens=100, completion_tokens=20
    )


async def test_parts_of_a_missed_request_save_too(store):
    """Of 100 texts to embed, 99 were kept: there was a call all the same."""
    await count(store, a_record("miss", Saved(0, 990, 0, CENT)))
    found = await cache_savings(store, NOW)
    assert found.month.results == {"miss": 1}
    assert found.month.saved == Spent(exact=CENT, prompt_tokens=990)


async def test_a_shared_error_saves_nothing_and_its_model_may_be_anybodys_word(store):
    await count(store, a_record("coalesced", Saved(), model="invented"))
    found = await cache_savings(store, NOW)
    assert (found.month.results, found.rows) == ({"coalesced": 1}, [])


async def test_rows_beyond_the_most_are_one_and_sums_stay_complete(store):
    await count(store, *(a_record("hit", Saved(1, n, 0, n * CENT), client=f"c{n}") for n in range(1, 6)))
    found = await cache_savings(store, NOW, most_rows=2)
    assert [(client, spent.exact // CENT) for client, _, spent in found.rows] == [("c5", 5), ("c4", 4), ("other", 6)]
    assert found.month.saved.exact == 15 * CENT


async def test_it_is_kept_for_days_only_and_is_no_spend(store):
    await count(store, a_record("hit", Saved(1, 100, 20, CENT)))
    slots = [(resolution, resolution.start(NOW)) for resolution in (MINUTE, HOUR, DAY)]
    for table in ("cache", "saved"):
        assert [slot async for slot, _ in store.used(table, slots)] == [slots[-1]]
    usage = await report(store, question("client", "month", None, None, zone="UTC", now=NOW), NOW)
    assert (usage.rows, usage.month) == ([], Spent())


async def test_a_client_without_a_key_has_a_row_of_its_own(store):
    await count(store, a_record("hit", Saved(1, 1, 1, 1), client=""))
    assert (await cache_savings(store, NOW)).rows[0][:2] == ("", "gpt-5")
