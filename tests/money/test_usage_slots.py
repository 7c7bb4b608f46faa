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
from quotapool.store.store import connect

AT = datetime(2026, 11, 22, 15, 4, 30, tzinfo=UTC)
CALL = Entry("acme", "k1", "gpt-5.5", "web", "exact", 11 * PICO // 1000, 1, 1000, 400, 200)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url, timeout_s=5.0)
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


async def test_names_beyond_the_bound_are_summed_by_client_and_then_together(spend):
    own, shared = MINUTE.rows["client"]
    many = [replace_of(CALL, client=f"c{n}") for n in range(own + shared + 10)]
    await spend.add(many, at=AT)
    await spend.add([replace_of(CALL, client="c0", model="gpt-5.4"), many[0], many[-1]], at=AT)
    rows = await table(spend, "client")
    assert len(rows) == own + shared + 1
    assert rows["c0", "gpt-5.5"].requests == 2  # it was there first, and keeps its row
    assert rows[f"c{own}", "other"].requests == 1
    assert rows["other", "other"].requests == 10 + 2  # the last ones, and what they and c0 added
    assert sum(row.requests for row in rows.values()) == len(many) + 3
    assert await table(spend, "key") == {
        ("acme", "k1", "gpt-5.5"): Spent(
            *[(len(many) + 2) * amount for amount in (11 * PICO // 1000, 0, 0, 0, 1, 1000, 400, 200)]
        ),
        ("acme", "k1", "gpt-5.4"): Spent(11 * PICO // 1000, 0, 0, 0, 1, 1000, 400, 200),
    }


class Model:
    """What the script does to one table, in Python."""

    def __init__(self, own, shared, separators):
        self.own, self.shared, self.separators = own, shared, separators
        self.rows = Counter()

    def add(self, name, requests):
        if name not in self.rows and len(self.rows) >= self.own:
            name = (*name[: self.separators], "other")
            if name not in self.rows and len(self.rows) >= self.own + self.shared:
                name = ("other",) * (self.separators + 1)
        self.rows[name] += requests


@pytest.mark.parametrize("seed", range(4))
async def test_the_script_bounds_each_table_as_its_specification_does(spend, monkeypatch, seed):
    rng = random.Random(seed)
    bounds = {"client": (5, 3), "key": (4, 2), "refusal": (3, 2)}
    small = tuple(replace(resolution, rows=bounds) for resolution in RESOLUTIONS)
    monkeypatch.setattr(spend_store, "RESOLUTIONS", small)
    models = {
        name: Model(*bounds[name], separators) for name, separators in (("client", 1), ("key", 2), ("refusal", 1))
    }
    for _ in range(30):
        batch = SpendBatch()
        for _ in range(rng.randint(1, 6)):
            client, model, key = (f"{kind}{rng.randrange(5)}" for kind in ("c", "m:x\0", "k"))
            batch.add(replace_of(CALL, client=client, model=model, key=key), AT)
            batch.refuse(client, f"code r{rng.randrange(3)}", 1, AT)
        for (_, name), rows in batch.minutes.items():
            for row, spent in rows.items():
                models[name].add(rollups.parts_of(name, row), spent.requests)
        await spend.send(batch, new_batch_id())
    for name, model in models.items():
        for resolution in RESOLUTIONS:
            rows = await table(spend, name, resolution)
            assert {parts: spent.requests for parts, spent in rows.items()} == model.rows


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
