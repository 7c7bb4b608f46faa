"""What `quotapool top` shows of a pool in a real store, and that reading it again costs what has changed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import pytest
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.waiting import Waiting
from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.keys.vault import NewKey, Vault
from quotapool.money.spend_store import SpendBatch
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.reports.top import CLIENT_ORDERS, KEY_ORDERS, TopReader
from quotapool.settings import Settings
from quotapool.shapes.top import Top

from tests.fakes.connect import connect
from tests.fakes.kept_requests import kept, tried
from tests.fakes.supervised import Pool
from tests.fakes.valkey import start_valkey, stop_valkey


class Ring:
    """The last requests of a pool, as its workers send them."""

    def __init__(self, pool: Pool, most: int = 10_000) -> None:
        self._store = RequestStore(pool.store, "test")
        self._most = most
        self._number = 0

    async def add(self, *requests: KeptRequest) -> None:
        self._number += 1
        chunk = msgspec.msgpack.encode(requests)
        await self._store.add(chunk, len(requests), sender="a", number=self._number, most=self._most)


def now_ended(**changed) -> KeptRequest:
    return kept(at=time.time(), total_us=0, **changed)


async def put(pool: Pool, name: str, state: State, reason: str) -> None:
    key = pool.overview.roster.pool.keys[name]
    await pool.ledger.registry.change_state(
        Subject.of_key(name), Record(state, reason, time.time()), fingerprint=key.fingerprint
    )


async def again(reader: TopReader, match: str = "") -> Top:
    """A reading, whatever was read a moment ago."""
    reader._now._last = None
    return await reader.read(match)


async def test_rates_clients_and_errors_are_those_of_the_requests_that_end(open_pool_of):
    pool = await open_pool_of(2)
    ring, reader = Ring(pool), TopReader(pool.operations)
    first = await reader.read()
    assert (first.traffic.requests_per_s, first.clients, first.troubles) == (0, [], [])
    await ring.add(*(now_ended(id=f"qp_{n}", client="app", attempts=(tried("key-0"),)) for n in range(30)))
    await ring.add(
        now_ended(id="bad", client="batch", status=429, code="queue_full", attempts=(tried("key-1", "wait"),))
    )
    pool.waiting = [Waiting("gpt-5", "rpm", "batch", "", 4, 1.0), Waiting("gpt-5", "rpm", "web", "", 2, 1.0)]
    await pool.sampling.tell_queues()
    top = await again(reader)
    by_name = {row.client: row for row in top.clients}
    assert by_name["app"].requests_per_minute == pytest.approx(30, rel=0.1)
    assert (by_name["batch"].waiting, by_name["web"].waiting, by_name["app"].waiting) == (4, 2, 0)
    assert by_name["batch"].refused_per_minute > 0
    assert [(one.id, one.why, one.tried) for one in top.troubles] == [("bad", "queue_full", "key-1:wait")]
    rows = {row.id: row for row in top.keys}
    assert rows["key-0"].attempts_per_minute == pytest.approx(30, rel=0.1)
    assert rows["key-1"].failed_per_minute == rows["key-1"].attempts_per_minute > 0
    # Once counted is counted: nothing is added when nothing has ended.
    after = await again(reader)
    assert {row.client: row.requests_per_minute for row in after.clients}["app"] == pytest.approx(30, rel=0.1)


async def test_who_starts_it_sees_the_minute_before_at_once(open_pool_of):
    pool = await open_pool_of(1)
    await Ring(pool).add(*(kept(at=time.time() - 5, total_us=0, attempts=(tried("key-0"),)) for _ in range(20)))
    top = await TopReader(pool.operations).read()
    assert top.traffic.requests_per_s == pytest.approx(2.0)


async def test_of_a_burst_a_part_is_read_and_all_of_it_is_counted(open_pool_of):
    pool = await open_pool_of(1)
    ring, reader = Ring(pool, most=100_000), TopReader(pool.operations)
    await reader.read()
    for _ in range(24):
        await ring.add(*([now_ended(client="app", prompt=1, completion=0)] * 500))
    began = time.monotonic()
    top = await again(reader)
    (row,) = top.clients
    assert row.requests_per_minute == pytest.approx(12_000, rel=(time.monotonic() - began + 3) / 60)
    assert row.tokens_per_minute == pytest.approx(row.requests_per_minute)
    assert len(reader._recent._spans) == 4_000


async def test_a_store_that_was_emptied_counts_from_the_beginning(open_pool_of):
    pool = await open_pool_of(1)
    ring, reader = Ring(pool), TopReader(pool.operations)
    await ring.add(*([now_ended()] * 10))
    await reader.read()
    await pool.store.client.flushall()
    await ring.add(now_ended(client="after"))
    assert [row.client for row in (await again(reader)).clients] == ["after"]


async def test_where_no_requests_are_kept_the_rate_is_of_the_last_minutes(open_pool_of):
    pool = await open_pool_of(1, requests_kept=0)
    await pool.use("a-00000", "gpt-5", 900)
    batch = SpendBatch()
    batch.refuse("app", "queue_full", 60, datetime.now(UTC))
    await pool.spend.send(batch, "one")
    traffic = (await TopReader(pool.operations).read()).traffic
    assert 60 / 120 <= traffic.requests_per_s <= 1
    assert traffic.refused_per_s == traffic.requests_per_s
    assert traffic.total_p50_ms is None


async def test_first_are_keys_that_are_out_then_those_that_fail_or_are_nearly_empty(
    open_pool_of,
):
    pool = await open_pool_of(8)
    await put(pool, "key-1", State.QUARANTINED, "insufficient_quota")
    await put(pool, "key-2", State.DISABLED, "")
    await put(pool, "key-3", State.REMOVED, "invalid_api_key")
    await put(pool, "key-4", State.SUSPECT, "forbidden")
    await pool.use("a-00005", "gpt-5", 20)
    await pool.use("a-00006", "gpt-5", 900)
    reader, ring = TopReader(pool.operations), Ring(pool)
    await reader.read()
    await ring.add(now_ended(attempts=(tried("key-7", "network"),)))
    top = await again(reader)
    rows = sorted(top.keys, key=KEY_ORDERS["worst first"])
    assert [row.id for row in rows] == ["key-3", "key-1", "key-4", "key-7", "key-5", "key-2", "key-6", "key-0"]
    assert (rows[0].state, rows[0].reason) == ("removed", "invalid_api_key")
    assert rows[4].left == pytest.approx(0.02, abs=0.01)
    assert rows[4].emptiest == "gpt-5 rpm"


async def test_keys_that_are_added_while_it_runs_are_there_and_locked_ones_are_named(open_pool_of):
    pool = await open_pool_of(1)
    reader = TopReader(pool.operations)
    assert [row.id for row in (await reader.read()).keys] == ["key-0"]
    master = MasterKey(new_master_key())
    await pool.operations.sources.vault.put([NewKey("stored", "sk-proj-stored-secret", "f" * 16, {})], master)
    reader._configuration_at = 0.0
    found = {row.id: row.state for row in (await again(reader)).keys}
    assert found == {"key-0": "active", "stored": "locked"}


async def test_a_reloaded_configuration_is_followed_also_if_the_store_was_away_then(open_pool_of, tmp_path):
    pool = await open_pool_of(2)
    new = [Settings.model_validate({"pool": "test", "keys": [{"id": "key-9", "secret": "sk-proj-secret-9"}]})]
    reader = TopReader(pool.operations, lambda: new.pop() if new else None)
    process, url = start_valkey(tmp_path)
    elsewhere = connect(url)
    stop_valkey(process)
    pool.operations.sources.vault, vault = Vault(elsewhere, "test"), pool.operations.sources.vault
    assert [row.id for row in (await reader.read()).keys] == ["key-0", "key-1"]
    assert new == []
    pool.operations.sources.vault = vault
    reader._configuration_at = 0.0
    assert [row.id for row in (await again(reader)).keys] == ["key-9"]
    await elsewhere.close()


async def test_a_store_that_is_away_leaves_what_was_known(open_pool_of, tmp_path):
    process, url = start_valkey(tmp_path)
    try:
        pool = await open_pool_of(1, url)
        await Ring(pool).add(*([now_ended(client="app")] * 5))
        reader = TopReader(pool.operations)
        await reader.read()
    finally:
        stop_valkey(process)
    top = await again(reader)
    assert top.now.facts[0].code == "store_away"
    assert [row.client for row in top.clients] == ["app"]


async def test_of_many_keys_and_clients_the_first_by_each_order_are_shown_and_those_that_match(open_pool_of):
    pool = await open_pool_of(1_000)
    ring, reader = Ring(pool, most=100_000), TopReader(pool.operations)
    await reader.read()
    for start in range(0, 1_000, 100):
        await ring.add(
            *(
                now_ended(client=f"c-{n}", prompt=n, attempts=(tried(f"key-{n}", "ok"),) * (1 + n % 5))
                for n in range(start, start + 100)
            )
        )
    top = await again(reader)
    assert len(top.clients) <= 200 * len(CLIENT_ORDERS)
    assert len(top.keys) <= 200 * len(KEY_ORDERS)
    by_tokens = sorted(top.clients, key=CLIENT_ORDERS["most tokens"])[:200]
    assert [row.client for row in by_tokens] == [f"c-{n}" for n in range(999, 799, -1)]
    # Given that "key-77" is not among these by any order
    everything = {"key-77", *(f"key-77{n}" for n in range(10))}
    assert not everything <= {row.id for row in top.keys}
    assert everything <= {row.id for row in (await again(reader, "KEY-77")).keys}
