"""How the pool stands now: gathered from a real store, as last known while that is away, and cheap in a large pool."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from quotapool.app.sampling import Sampling
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.waiting import Waiting
from quotapool.ledger.messages import bucket_key
from quotapool.money.spend_store import Entry, SpendBatch, new_batch_id
from quotapool.observe.samples import SampleStore
from quotapool.shapes.now import Now

from tests.fakes.calls import calls_of
from tests.fakes.store import pack
from tests.fakes.supervised import Pool
from tests.fakes.valkey import start_valkey, stop_valkey


async def test_all_of_it_in_a_small_pool(open_pool_of):
    today = datetime.now(UTC).date()
    pool = await open_pool_of(
        3,
        accounts={"a-00000": {"grants": [{"usd": 100, "granted_on": today - timedelta(days=20)}]}},
        spend={"daily_limit_usd": 50},
    )
    await pool.use("a-00000", "gpt-5", 900)
    await pool.use("a-00001", "gpt-5", 400)
    dead = Record(State.REMOVED, "invalid_api_key", 0.0, status=401)
    await pool.ledger.registry.change_state(
        Subject.of_key("key-2"), dead, fingerprint=pool.overview.roster.pool.keys["key-2"].fingerprint
    )
    # Given $10 a day for a week, as even as can be, and nothing today
    for ago in range(1, 8):
        await pool.spend.add(
            [Entry("a-00000", "key-0", "gpt-5", "app", "exact", 10 * 10**12)],
            at=datetime.now(UTC) - timedelta(days=ago),
        )
    batch = SpendBatch()
    batch.add(Entry("a-00000", "key-0", "gpt-5", "app", "exact", 0, requests=30), datetime.now(UTC))
    batch.refuse("app", "queue_full", 10, datetime.now(UTC))
    await pool.spend.send(batch, new_batch_id())
    pool.waiting = [Waiting("gpt-5", "rpm", "app", "", 12, 6.04)]
    await pool.sampling.tell_queues()
    await pool.sampling.tick()

    now = await pool.now.read()
    assert (now.keys["active"], now.keys["removed"], now.usable_keys, now.accounts) == (2, 1, 2, 3)
    (rpm,) = [row for row in now.room if row.dimension == "rpm"]
    assert (rpm.model, rpm.limit, rpm.accounts) == ("gpt-5", 2_000, 2)
    assert 1_300 <= rpm.remaining <= 1_400
    assert [(row.waiting, row.longest_s) for row in now.waiting] == [(12, 6.0)]
    (credit,) = now.credit
    assert (credit.account, credit.remaining_usd, credit.error_days) == ("a-00000", 30.0, 0.0)
    assert credit.empty_at is not None
    assert date.fromisoformat(credit.empty_at[:10]) >= today + timedelta(days=2)
    assert 15 <= now.requests_per_minute <= 40
    assert now.errors_per_minute == pytest.approx(now.requests_per_minute / 4)
    assert (now.spent_today_usd, now.daily_limit_usd) == (0.0, 50.0)
    assert now.sentence.startswith("Serving: 2 of 3 keys. gpt-5 has no room left (rpm). 12 requests wait in the queue.")
    codes = {row.code: row for row in now.attention}
    assert codes["invalid_api_key"].ids == ["key-2"]
    assert codes["queue"].severity == "warning"


async def test_who_asks_at_once_gets_the_same_answer_and_buckets_are_read_by_who_samples(open_pool_of):
    pool = await open_pool_of(1)
    await pool.use("a-00000", "gpt-5", 900)
    await pool.sampling.tick()
    first, second = await asyncio.gather(pool.now.read(), pool.now.read())
    assert first is second
    await pool.use("a-00000", "gpt-5", 10)
    (before,) = [row for row in (await pool.again()).room if row.dimension == "rpm"]
    await pool.sampling.tick()
    (after,) = [row for row in (await pool.again()).room if row.dimension == "rpm"]
    assert before.remaining > 800
    assert after.remaining < 100


async def test_without_a_running_proxy_the_buckets_are_read(open_pool_of):
    pool = await open_pool_of(1)
    await pool.use("a-00000", "gpt-5", 900)
    assert [row.dimension for row in (await pool.now.read()).room] == ["rpm", "tpm"]


async def test_while_the_store_is_away_the_pool_stands_as_it_was_last_known(tmp_path, open_pool_of):
    process, url = start_valkey(tmp_path)
    try:
        pool = await open_pool_of(2, url=url)
        await pool.use("a-00000", "gpt-5", 900)
        await pool.ledger.registry.change_state(
            Subject.of_key("key-1"), Record(State.DISABLED, "operator", 0.0, by=OPERATOR), fingerprint=""
        )
        await pool.sampling.tick()
        assert (await pool.now.read()).keys["disabled"] == 1
    finally:
        stop_valkey(process)
    now = await pool.again()
    assert [fact.code for fact in now.facts] == ["store_away", "serving", "not_dry"]
    assert (now.usable_keys, now.keys["disabled"], len(now.room)) == (1, 1, 2)
    assert [row.code for row in now.attention] == ["store_away", "operator"]


async def test_a_pool_without_keys_needs_one(open_pool_of):
    now = await (await open_pool_of(0)).now.read()
    assert [(row.severity, row.code) for row in now.attention] == [("critical", "no_keys")]


async def test_it_answers_when_the_store_was_away_from_the_beginning(tmp_path):
    pool = Pool(f"unix://{tmp_path}/nobody.sock", 2)
    now = await pool.now.read()
    assert now.sentence.startswith("The store is away")
    assert (now.usable_keys, now.room) == (2, [])
    await pool.close()


async def test_another_replica_samples_when_one_has_stopped(open_pool_of):
    pool = await open_pool_of(1)
    await pool.use("a-00000", "gpt-5", 900)
    other = Sampling(pool.overview, SampleStore(pool.store, "test", "two"), list)
    await pool.sampling.tick()
    await other.tick()
    assert sum(len(chunk.at) for chunk in await pool.samples.chunks(time.time(), 2)) == 1
    await pool.sampling.stop()
    await other.tick()
    assert sum(len(chunk.at) for chunk in await pool.samples.chunks(time.time(), 2)) == 2


async def test_five_thousand_keys_do_not_hold_the_loop(open_pool_of):
    keys = 5_000
    pool = await open_pool_of(keys, accounts={f"a-{n:05}": {"grants": [{"usd": 100}]} for n in range(keys)})
    await pool.use("a-00000", "g-0", 900)
    client, prefix = pool.store.client, pool.ledger.prefix
    raw = await client.get(bucket_key(prefix, "a-00000", "g-0"))
    for n in range(keys):
        names = [(f"a-{n:05}", f"g-{m}") for m in range(3)]
        await client.mset({bucket_key(prefix, account, group): raw for account, group in names})
        await client.sadd(f"{prefix}:buckets", *(pack(name) for name in names))
    await pool.now.read()
    nows: list[Now] = []

    async def look() -> None:
        nows.append(await pool.again())

    sampled = await calls_of(pool.sampling.tick)
    read = await calls_of(look)
    now = nows[0]
    assert len(now.room) == 6
    assert now.room[0].accounts == keys
    assert len(now.credit) == 50
    # Given 24,000 calls in a turn of a sample, and 15 for each key to read it, where this was measured
    assert sampled.in_a_turn < 50_000
    assert read.number < 30 * keys
    assert read.in_a_turn < 20_000
