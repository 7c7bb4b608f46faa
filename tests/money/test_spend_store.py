"""Spend in a real Valkey: each batch once, sums exact, restarts survived, old hours forgotten."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import pytest
from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import Entry, SpendBatch, SpendStore
from quotapool.money.spent import Spent
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect
from tests.fakes.valkey import start_valkey, stop_valkey

DAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
CALL = Entry("acme", "k1", "gpt-5.5", "backend", "exact", 11 * PICO // 1000, 1, 1000, 0, 200)
CUT = Entry("acme", "k2", "gpt-5.5", "backend", "estimated", 6, 2, 10, 0, 4, tier="priority")
UNKNOWN = Entry("lab", "k3", "gpt-99", "", "unpriced", 0, 3, 30, 0, 7)
PROBE = Entry("lab", "k3", "gpt-5.5", "", "probe", 5, 1, 8, 0, 1)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url)
    yield SpendStore(store, "test")
    await store.close()


async def test_spend_is_kept_by_account_key_model_client_and_pool(spend):
    await spend.add([CALL, CUT, UNKNOWN, PROBE], at=NOON, version="data 1")
    by = {
        dimension: (await spend.totals(dimension, DAY, DAY))[DAY] for dimension in ("account", "key", "client", "pool")
    }
    assert by["account"]["acme"] == Spent(11 * PICO // 1000, 6, 0, 0, 3, 1010, 0, 204)
    assert by["account"]["lab"] == Spent(0, 0, 5, 3, 4, 38, 0, 8)
    assert set(by["key"]) == {"k1", "k2", "k3"}
    assert set(by["client"]) == {"backend", ""}
    assert by["pool"][""].total == 11 * PICO // 1000 + 11
    models = (await spend.totals("model", DAY, DAY))[DAY]
    # Each service tier has a row of its own.
    assert set(models) == {"gpt-5.5", "gpt-5.5 (priority)", "gpt-99"}
    assert models["gpt-99"].unpriced_requests == 3
    assert await spend.versions(DAY, DAY) == ["data 1"]


async def test_a_batch_is_added_once_however_often_it_is_sent(spend):
    assert await spend.add([CALL], batch_id="b1", at=NOON)
    assert not await spend.add([CALL], batch_id="b1", at=NOON)
    assert await spend.add([CALL], batch_id="b2", at=NOON)
    assert (await spend.totals("pool", DAY, DAY))[DAY][""].requests == 2
    assert await spend.hours(NOON, NOON) == {NOON.replace(minute=0): 22 * PICO // 1000}


async def test_a_sender_leaves_one_number_and_what_arrives_late_counts_for_nothing(spend):
    batch = SpendBatch()
    batch.add(CALL, NOON)
    # The second send of batch 8 arrives after batch 9 was answered, as it may on a connection that was given up.
    assert [await spend.send(batch, f"worker:{number}") for number in (8, 8, 9, 8, 10)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert await spend.send(batch, "another:1")
    assert (await spend.totals("pool", DAY, DAY))[DAY][""].requests == 4
    assert sorted([key async for key in spend._store.client.scan_iter(match="*:batch:*")]) == [
        b"qp:{test:spend}:batch:another", b"qp:{test:spend}:batch:worker"
    ]  # fmt: skip


async def test_batches_sent_at_once_by_many_add_up(valkey_url):
    stores = [connect(valkey_url) for _ in range(4)]
    stores_of_spend = [SpendStore(store, "test") for store in stores]
    await asyncio.gather(*(spend.add([CALL, CUT], at=NOON) for spend in stores_of_spend for _ in range(25)))
    assert (await stores_of_spend[0].totals("pool", DAY, DAY))[DAY][""].requests == 300
    for store in stores:
        await store.close()


async def test_sums_beyond_what_lua_can_count_exactly_stay_exact(spend):
    # 2^53 picodollars are nine thousand dollars.
    await spend.add([Entry("a", "k", "m", "", "exact", 2**53)], at=NOON)
    await spend.add([Entry("a", "k", "m", "", "exact", 1)], at=NOON)
    assert (await spend.totals("account", DAY, DAY))[DAY]["a"].exact == 2**53 + 1


async def test_names_with_colons_and_spaces_come_back_as_they_went(spend):
    tuned = "ft:gpt-4o-2024-08-06:acme::x y"
    await spend.add([Entry("a:b", "k", tuned, "c", "exact", 1)], at=NOON)
    assert list((await spend.totals("model", DAY, DAY))[DAY]) == [tuned]
    assert list((await spend.totals("account", DAY, DAY))[DAY]) == ["a:b"]


async def test_days_and_hours_are_utc_and_both_ends_are_included(spend):
    for day, hour in ((20, 23), (21, 0), (22, 5), (22, 6)):
        await spend.add([CALL], at=datetime(2026, 11, day, hour, 59, tzinfo=UTC))
    assert set(await spend.totals("pool", date(2026, 11, 21), DAY)) == {date(2026, 11, 21), DAY}
    hours = await spend.hours(datetime(2026, 11, 20, 23, 10, tzinfo=UTC), datetime(2026, 11, 22, 5, 0, tzinfo=UTC))
    assert [(at.day, at.hour) for at in hours] == [(20, 23), (21, 0), (22, 5)]


async def test_days_live_for_13_months_and_hours_for_8_days(spend):
    await spend.add([CALL], batch_id="b", at=NOON)
    client = spend._store.client
    assert 396 * 86_400 < await client.ttl("qp:{test:spend}:day:2026-11-22:key") <= 400 * 86_400
    assert 8 * 86_400 <= await client.ttl("qp:{test:spend}:hours:2026-11-22") <= 9 * 86_400
    assert 3_600 < await client.ttl("qp:{test:spend}:batch:b") <= 86_400


async def test_pools_that_share_a_store_do_not_see_each_other(spend):
    await spend.add([CALL], at=NOON)
    assert await SpendStore(spend._store, "other").totals("pool", DAY, DAY) == {}


async def test_spend_survives_a_restart_of_the_store_and_so_does_what_was_sent_before_it(tmp_path):
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url)
    await SpendStore(store, "test").add([CALL], batch_id="b1", at=NOON)
    await store.close()
    stop_valkey(process)
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url)
    spend = SpendStore(store, "test")
    assert not await spend.add([CALL], batch_id="b1", at=NOON)  # whose first answer was lost with the server
    assert (await spend.totals("pool", DAY, DAY))[DAY][""].requests == 1
    await store.close()
    stop_valkey(process)


async def test_a_store_that_is_away_raises_store_lost(tmp_path):
    process, url = start_valkey(tmp_path)
    stop_valkey(process)
    store = connect(url)
    with pytest.raises(StoreLost):
        await SpendStore(store, "test").add([CALL])
    await store.close()


def test_a_batch_is_divided_without_losing_a_row():
    batch = SpendBatch()
    for n in range(10):
        batch.add(Entry("a", f"k{n}", "m", "", "exact", 1), NOON)
    parts = []
    while batch:
        parts.append(batch.take(4))
    # In the day 10 keys; one account, model, client and pool. In slots 10 keys and one client, in three slots each.
    assert [len(part) for part in parts] == [4, 4, 4, 2, *[3] * 11]
    assert sum(part.total for part in parts) == 10
    assert sum(pico for part in parts for pico in part.hours.values()) == 10


def test_what_is_added_afterwards_is_not_in_the_part_that_was_taken_out():
    batch = SpendBatch()
    batch.add(CALL, NOON)
    first = batch.take(100)
    batch.add(CALL, NOON)  # of the very same moment
    assert (first.total, len(first)) == (CALL.pico, 5 + 3 * 2)
    assert (batch.total, len(batch)) == (CALL.pico, 5 + 3 * 2)
