"""Usage in slots of time, in a real Valkey: each slot sums, is bounded, and is forgotten in its time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.domain.wallet import PICO
from quotapool.money import rollups, spend_store
from quotapool.money.rollups import ALL_OTHER, DAY, HOUR, MINUTE, RESOLUTIONS
from quotapool.money.spend_store import PROBES, Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.money.spent import Spent

from tests.fakes.connect import connect

AT = datetime(2026, 11, 22, 15, 4, 30, tzinfo=UTC)
CALL = Entry("acme", "k1", "gpt-5.5", "web", "exact", 11 * PICO // 1000, 1, 1000, 400, 200)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url)
    yield SpendStore(store, "test")
    await store.close()


async def table(spend, name, resolution=MINUTE, at=AT):
    found = [rows async for _, rows in spend.used(name, [(resolution, resolution.start(at))])]
    return found[0] if found else {}


async def test_a_call_is_in_its_minute_hour_and_day_by_client_and_by_key(spend):
    await spend.add([CALL, CALL, replace_of(CALL, kind="estimated", pico=6, tier="priority")], at=AT)
    twice = Spent(22 * PICO // 1000, 0, 0, 0, 2, 2000, 800, 400)
    once = Spent(0, 6, 0, 0, 1, 1000, 400, 200)
    for resolution in RESOLUTIONS:
        assert await table(spend, "client", resolution) == {
            ("web", "gpt-5.5"): twice,
            ("web", "gpt-5.5 (priority)"): once,
        }
        assert await table(spend, "key", resolution) == {
            ("acme", "k1", "gpt-5.5"): twice,
            ("acme", "k1", "gpt-5.5 (priority)"): once,
        }


def replace_of(entry, **changes):
    return Entry(**{name: changes.get(name, getattr(entry, name)) for name in Entry.__struct_fields__})


async def test_minutes_hours_and_days_end_where_clocks_say_so(spend):
    for at in ("15:59:59", "16:00:00", "23:59:59"):
        await spend.add([CALL], at=datetime.fromisoformat(f"2026-11-22T{at}+00:00"))
    await spend.add([CALL], at=datetime(2026, 11, 23, tzinfo=UTC))
    slots = [
        *[(MINUTE, AT.replace(hour=15, minute=59, second=0)), (MINUTE, AT.replace(hour=16, minute=0, second=0))],
        *[(HOUR, AT.replace(hour=hour, minute=0, second=0)) for hour in (15, 16, 17)],
        *[(DAY, datetime(2026, 11, day, tzinfo=UTC)) for day in (22, 23)],
    ]
    found = [(*slot, rows["web", "gpt-5.5"].requests) async for slot, rows in spend.used("client", slots)]
    assert [(slot.name, at.hour, n) for slot, at, n in found] == [
        *[("minute", 15, 1), ("minute", 16, 1), ("hour", 15, 1), ("hour", 16, 1), ("day", 0, 3), ("day", 0, 1)]
    ]


async def test_probes_and_requests_without_a_client_key_are_two_rows(spend):
    probe = Entry("acme", "k1", "gpt-5.5", PROBES, "probe", 5, 1, 8, 0, 1)
    await spend.add([probe, replace_of(CALL, client="")], at=AT)
    rows = await table(spend, "client")
    assert rows[PROBES, "gpt-5.5"] == Spent(0, 0, 5, 0, 1, 8, 0, 1)
    assert rows["", "gpt-5.5"].probes == 0
    assert len(rows) == 2


async def test_a_batch_that_is_sent_twice_counts_once_in_slots_too(spend):
    batch = SpendBatch()
    batch.add(CALL, AT)
    batch.refuse("web", "client_limit rpm", 3, AT)
    batch_id = new_batch_id()
    assert [await spend.send(batch, batch_id) for _ in range(2)] == [True, False]
    assert (await table(spend, "client"))["web", "gpt-5.5"].requests == 1
    assert await table(spend, "refusal") == {("web", "client_limit rpm"): Spent(requests=3)}


async def test_slots_live_for_48_hours_90_days_and_13_months_from_their_beginning(spend):
    await spend.add([CALL], at=AT)
    client, name = spend._store.client, "qp:{test:spend}:use"
    lives = {
        kind: await client.ttl(f"{name}:{kind}:2026-11-22T{at}:client")
        for kind, at in (("minute", "15:04"), ("hour", "15:00"), ("day", "00:00"))
    }
    hour, day = 3_600, 86_400
    assert 48 * hour < lives["minute"] <= 48 * hour + 120
    assert 90 * day < lives["hour"] <= 90 * day + 2 * hour
    assert 400 * day < lives["day"] <= 402 * day
    # and what is added later makes no slot live longer
    await client.expire(f"{name}:minute:2026-11-22T15:04:client", 100)
    await spend.add([CALL], at=AT)
    assert await client.ttl(f"{name}:minute:2026-11-22T15:04:client") <= 100


async def test_a_full_table_keeps_the_names_that_used_most(spend):
    most = MINUTE.rows["client"]
    small = [replace_of(CALL, client=f"c{n}", prompt=n, completion=0) for n in range(2, 3 * most)]
    # Given a client that begins to burn tokens when the table is long full, in small portions
    for first in range(0, len(small), 50):
        await spend.add(small[first : first + 50], at=AT)
    for _ in range(300):
        await spend.add([replace_of(CALL, client="burns", prompt=9_000)], at=AT)
    rows = await table(spend, "client")
    assert len(rows) <= most
    assert max(rows, key=lambda name: rows[name].prompt_tokens if name != ("other", "other") else 0) == (
        "burns",
        "gpt-5.5",
    )
    assert rows["burns", "gpt-5.5"].prompt_tokens == 300 * 9_000
    # Sums are complete, whatever was folded.
    assert sum(row.requests for row in rows.values()) == len(small) + 300
    assert sum(row.prompt_tokens for row in rows.values()) == sum(range(2, 3 * most)) + 300 * 9_000
    assert len(await table(spend, "key")) == 1


class Model:
    """What the script does to one table, in Python."""

    def __init__(self, table, most):
        self.other, self.most, self.rows = rollups.parts_of(table, ALL_OTHER[table]), most, {}

    def add(self, name, spent):
        if name not in self.rows and len(self.rows) >= self.most:
            others = [one for one in self.rows if one != self.other]
            others.sort(key=lambda one: self.weight(self.rows[one]))
            rest = self.rows.setdefault(self.other, Spent())
            for one in others[: len(others) - self.most // 2]:
                rest.add(self.rows.pop(one))
        self.rows.setdefault(name, Spent()).add(spent)

    @staticmethod
    def weight(spent):
        return spent.requests + spent.prompt_tokens + spent.completion_tokens


@pytest.mark.parametrize("seed", range(6))
async def test_the_script_bounds_each_table_as_its_specification_does(spend, monkeypatch, seed):
    rng = random.Random(seed)
    bounds = {"client": rng.randint(4, 12), "key": rng.randint(4, 12), "refusal": rng.randint(4, 6)}
    small = tuple(replace(resolution, rows=bounds) for resolution in RESOLUTIONS)
    monkeypatch.setattr(spend_store, "RESOLUTIONS", small)
    models = {name: Model(name, most) for name, most in bounds.items()}
    for _ in range(40):
        batch = SpendBatch()
        for _ in range(rng.randint(1, 6)):
            client, model, key = (f"{kind}{rng.randrange(5)}" for kind in ("c", "m:x\0", "k"))
            tokens = {"prompt": rng.randrange(10**9), "completion": rng.randrange(10**9)}  # never twice the same
            client, model = ("other", "other") if rng.random() < 0.1 else (client, model)
            batch.add(replace_of(CALL, client=client, model=model, key=key, **tokens), AT)
            batch.refuse(client, f"code r{rng.randrange(3)}", rng.randrange(1, 10**9), AT)
        for (_, name), rows in batch.minutes.items():
            for row, spent in rows.items():
                models[name].add(rollups.parts_of(name, row), spent)
        await spend.send(batch, new_batch_id())
    for name, model in models.items():
        for resolution in RESOLUTIONS:
            assert await table(spend, name, resolution) == model.rows


async def test_what_cost_and_used_nothing_is_a_row_too(spend):
    await spend.add([replace_of(CALL, pico=0, prompt=0, cached=0, completion=0, as_tool=True)], at=AT)
    assert await table(spend, "client") == {("web", "gpt-5.5"): Spent()}


async def test_full_tables_take_no_more_memory_than_the_documents_say(spend):
    """docs/spend.md: 220 MiB, with names of some 30 bytes, if all tables of all slots are full."""
    worst = 0
    for resolution in RESOLUTIONS:
        for name, most in resolution.rows.items():
            await spend._store.client.flushall()
            batch = SpendBatch()
            for n in range(most):
                used = PICO * (n + 1), n + 1, 10_000 * n, 1_000 * n, 500 * n
                client = f"team-{n:04d}-backend"
                batch.add(Entry(f"account-{n:04d}", f"key-{n:04d}", "gpt-5.5-mini", client, "exact", *used), AT)
                batch.refuse(client, "client_limit tpm", n + 1, AT)
                batch.rescue(f"what_had_failed_{n}", n + 1, AT)
                batch.cache(f"result_{n}", n + 1, AT)
                saved = Spent(PICO * (n + 1), 0, 0, n + 1, n + 1, 10_000 * n, 0, 500 * n)
                batch.save(client, "gpt-5.5-mini", saved, AT)
            batch.days.clear()
            await spend.send(batch, new_batch_id())
            full = f"{spend.prefix}:{rollups.key_of(name, (resolution, resolution.start(AT)))}"
            assert await spend._store.client.hlen(full) == most
            slots = resolution.kept // resolution.size + 2
            worst += slots * await spend._store.client.memory_usage(full, samples=0)
    assert 180 < worst / 2**20 < 220


async def test_a_sum_beyond_what_lua_counts_exactly_is_right_to_the_millionth(spend):
    for pico in (2**53, 1, PICO, 3):
        await spend.add([replace_of(CALL, pico=pico)], at=AT)
    assert abs((await table(spend, "client"))["web", "gpt-5.5"].exact - (2**53 + PICO + 4)) < PICO / 10**6


def test_a_batch_that_waits_for_days_stays_small():
    batch, at = SpendBatch(), AT
    names = [replace_of(CALL, client=f"c{n}", key=f"k{n}") for n in range(50)]
    for _ in range(3_000):
        at += timedelta(minutes=1)
        for entry in names:
            batch.add(entry, at)
    rows = sum(map(len, batch.minutes.values()))
    assert rows <= 20_000 + 2 * 3_000  # and one row of all others for each minute and table
    requests = Counter()
    for (_, name), of_minute in batch.minutes.items():
        requests[name] += sum(row.requests for row in of_minute.values())
    assert requests == {"client": 150_000, "key": 150_000}
    assert ALL_OTHER["client"] in batch.minutes[MINUTE.start(at), "client"]
    while batch:
        batch.take(150)
    assert batch._in_minutes == 0
