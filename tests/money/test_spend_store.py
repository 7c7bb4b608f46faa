"""The book of spend, on a real Valkey: each batch once, sums exact, restarts survived, old hours forgotten."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import pytest
from quotapool.money.rate_cards import PICO
from quotapool.money.spend_store import Entry, Sheet, SpendStore, Spent
from quotapool.store.store import StoreLost, connect

from tests.fakes.valkey import start_valkey, stop_valkey

DAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
CALL = Entry("acme", "k1", "gpt-5.5", "backend", "exact", 11 * PICO // 1000, 1, 1000, 0, 200)
CUT = Entry("acme", "k2", "gpt-5.5", "backend", "estimated", 6, 2, 10, 0, 4, tier="priority")
UNKNOWN = Entry("lab", "k3", "gpt-99", "", "unpriced", 0, 3, 30, 0, 7)
PROBE = Entry("lab", "k3", "gpt-5.5", "", "probe", 5, 1, 8, 0, 1)


@pytest.fixture
async def book(valkey_url):
    store = connect(valkey_url, timeout_s=2.0)
    yield SpendStore(store, "test")
    await store.close()


async def test_spend_is_kept_by_account_key_model_client_and_pool(book):
    await book.add([CALL, CUT, UNKNOWN, PROBE], at=NOON, version="data 1")
    by = {
        dimension: (await book.totals(dimension, DAY, DAY))[DAY] for dimension in ("account", "key", "client", "pool")
    }
    assert by["account"]["acme"] == Spent(11 * PICO // 1000, 6, 0, 0, 3, 1010, 0, 204)
    assert by["account"]["lab"] == Spent(0, 0, 5, 3, 4, 38, 0, 8)
    assert set(by["key"]) == {"k1", "k2", "k3"}
    assert set(by["client"]) == {"backend", ""}
    assert by["pool"][""].total == 11 * PICO // 1000 + 11
    models = (await book.totals("model", DAY, DAY))[DAY]
    # Another service tier is another line of the bill.
    assert set(models) == {"gpt-5.5", "gpt-5.5 (priority)", "gpt-99"}
    assert models["gpt-99"].unpriced_requests == 3
    assert await book.versions(DAY, DAY) == ["data 1"]


async def test_a_batch_is_booked_once_however_often_it_is_sent(book):
    assert await book.add([CALL], batch="b1", at=NOON)
    assert not await book.add([CALL], batch="b1", at=NOON)
    assert await book.add([CALL], batch="b2", at=NOON)
    assert (await book.totals("pool", DAY, DAY))[DAY][""].requests == 2
    assert await book.hours(NOON, NOON) == {NOON.replace(minute=0): 22 * PICO // 1000}


async def test_batches_sent_at_once_by_many_add_up(valkey_url):
    stores = [connect(valkey_url, timeout_s=2.0) for _ in range(4)]
    books = [SpendStore(store, "test") for store in stores]
    await asyncio.gather(*(book.add([CALL, CUT], at=NOON) for book in books for _ in range(25)))
    assert (await books[0].totals("pool", DAY, DAY))[DAY][""].requests == 300
    for store in stores:
        await store.close()


async def test_sums_beyond_what_lua_can_count_exactly_stay_exact(book):
    # 2^53 picodollars are nine thousand dollars.
    await book.add([Entry("a", "k", "m", "", "exact", 2**53)], at=NOON)
    await book.add([Entry("a", "k", "m", "", "exact", 1)], at=NOON)
    assert (await book.totals("account", DAY, DAY))[DAY]["a"].exact == 2**53 + 1


async def test_names_with_colons_and_spaces_come_back_as_they_went(book):
    tuned = "ft:gpt-4o-2024-08-06:acme::x y"
    await book.add([Entry("a:b", "k", tuned, "c", "exact", 1)], at=NOON)
    assert list((await book.totals("model", DAY, DAY))[DAY]) == [tuned]
    assert list((await book.totals("account", DAY, DAY))[DAY]) == ["a:b"]


async def test_days_and_hours_are_utc_and_asked_for_with_both_ends(book):
    for day, hour in ((20, 23), (21, 0), (22, 5), (22, 6)):
        await book.add([CALL], at=datetime(2026, 11, day, hour, 59, tzinfo=UTC))
    assert set(await book.totals("pool", date(2026, 11, 21), DAY)) == {date(2026, 11, 21), DAY}
    hours = await book.hours(datetime(2026, 11, 20, 23, 10, tzinfo=UTC), datetime(2026, 11, 22, 5, 0, tzinfo=UTC))
    assert [(at.day, at.hour) for at in hours] == [(20, 23), (21, 0), (22, 5)]


async def test_days_live_for_13_months_and_hours_for_8_days(book):
    await book.add([CALL], batch="b", at=NOON)
    client = book._store.client
    assert 396 * 86_400 < await client.ttl("qp:{test:spend}:day:2026-11-22:key") <= 400 * 86_400
    assert 8 * 86_400 <= await client.ttl("qp:{test:spend}:hours:2026-11-22") <= 9 * 86_400
    assert 3_600 < await client.ttl("qp:{test:spend}:batch:b") <= 86_400


async def test_pools_that_share_a_store_do_not_see_each_other(book):
    await book.add([CALL], at=NOON)
    assert await SpendStore(book._store, "other").totals("pool", DAY, DAY) == {}


async def test_spend_survives_a_restart_of_the_store_and_so_does_what_was_sent_before_it(tmp_path):
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url, timeout_s=2.0)
    await SpendStore(store, "test").add([CALL], batch="b1", at=NOON)
    await store.close()
    stop_valkey(process)
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url, timeout_s=2.0)
    book = SpendStore(store, "test")
    assert not await book.add([CALL], batch="b1", at=NOON)  # whose first answer was lost with the server
    assert (await book.totals("pool", DAY, DAY))[DAY][""].requests == 1
    await store.close()
    stop_valkey(process)


async def test_a_store_that_is_away_says_so(tmp_path):
    process, url = start_valkey(tmp_path)
    stop_valkey(process)
    store = connect(url)
    with pytest.raises(StoreLost):
        await SpendStore(store, "test").add([CALL])
    await store.close()


def test_a_sheet_is_cut_without_losing_a_row():
    sheet = Sheet()
    for n in range(10):
        sheet.add(Entry("a", f"k{n}", "m", "", "exact", 1), NOON)
    parts = []
    while sheet:
        parts.append(sheet.cut(4))
    assert [len(part) for part in parts] == [4, 4, 4, 2]  # 10 keys; one account, model, client and pool
    assert sum(part.total for part in parts) == 10
    assert sum(pico for part in parts for pico in part.hours.values()) == 10


def test_what_comes_after_a_cut_is_not_in_the_part_that_was_cut():
    sheet = Sheet()
    sheet.add(CALL, NOON)
    first = sheet.cut(100)
    sheet.add(CALL, NOON)  # of the very same moment
    assert (first.total, len(first)) == (CALL.pico, 5)
    assert (sheet.total, len(sheet)) == (CALL.pico, 5)
