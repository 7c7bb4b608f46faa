"""An hour of samples in the store: what comes out is what went in, little is kept, one replica samples at a time."""

from __future__ import annotations

import math
import time

import pytest
from quotapool.domain.waiting import MOST, Waiting
from quotapool.observe.samples import MOST_SERIES, Bounded, Chunk, History, Reading, Room, SampleStore

from tests.fakes.connect import connect

T0 = 1_700_000_040.0  # the beginning of a minute


@pytest.fixture
async def store(valkey_url):
    made = connect(valkey_url)
    yield made
    await made.close()


def room(model: str, left: float, used: float | None = 0.0, dimension: str = "tpm") -> Room:
    return Room(model, dimension, 1_000.0, left, 1_000.0, 1, 0, used)


def reading(at: float, *rooms: Room) -> Reading:
    return Reading(at, 5.0, list(rooms))


def numbers(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def test_a_series_that_comes_later_and_one_that_goes_leave_gaps():
    chunk = Chunk()
    chunk.add(reading(T0, room("a", 10, None)), 3)
    chunk.add(reading(T0 + 5, room("b", 7, 1.5), room("a", 9, 2)), None)
    chunk.add(reading(T0 + 10, room("b", 6, 1)), 0)
    history = History()
    history.add(chunk)
    assert (history.at, history.waiting) == ([T0, T0 + 5, T0 + 10], [3, None, 0])
    a, b = history.tracks["a", "tpm"], history.tracks["b", "tpm"]
    assert (numbers(a.remaining), numbers(a.used)) == ([10, 9, None], [None, 2, None])
    assert (numbers(b.remaining), numbers(b.limit), numbers(b.used)) == (
        *([None, 7, 6], [None, 1_000, 1_000], [None, 1.5, 1]),
    )


def test_one_model_of_several_chunks():
    first, second = Chunk(), Chunk()
    first.add(reading(T0, room("a", 1), room("b", 2)), 0)
    second.add(reading(T0 + 60, room("b", 3), room("c", 4)), 0)
    history = History()
    for chunk in (first, second):
        history.add(chunk, "b")
    assert list(history.tracks) == [("b", "tpm")]
    assert history.tracks["b", "tpm"].remaining == [2, 3]
    everything = History()
    for chunk in (first, second):
        everything.add(chunk)
    left = {name[0]: numbers(track.remaining) for name, track in everything.tracks.items()}
    assert left == {"a": [1, None], "b": [2, 3], "c": [None, 4]}


def test_names_beyond_two_hundred_are_added_up_and_those_that_were_there_stay():
    bounded = Bounded([("old", "tpm")])
    rooms = [room(f"m-{n:03}", 2, 1) for n in range(MOST_SERIES + 9)]
    rows = {row.name: row for row in bounded.rows(reading(T0, *rooms, room("old", 5))).room}
    # "old" has its place, so 199 others have one, and 10 are together.
    assert len(rows) == MOST_SERIES + 1
    assert rows["old", "tpm"].remaining == 5
    rest = rows["other", "tpm"]
    assert (rest.remaining, rest.limit, rest.used, rest.accounts) == (20, 10_000, 10, 10)
    again = {row.name for row in bounded.rows(reading(T0 + 5, *reversed(rooms))).room}
    assert again == set(rows) - {("old", "tpm")}
    # An hour after it was seen last, the place of one is free.
    later = bounded.rows(reading(T0 + 3_611, *(room(f"n-{n:03}", 1) for n in range(MOST_SERIES)))).room
    assert ("other", "tpm") not in {row.name for row in later}


async def test_samples_are_read_by_another_replica_and_go_on_in_its_chunk(store):
    one, two = SampleStore(store, "test", "one"), SampleStore(store, "test", "two")
    assert await one.acquire()
    assert not await two.acquire()
    assert await one.acquire()
    await one.add(reading(T0, room("a", 10)), 1)
    await one.add(reading(T0 + 5, room("a", 9)), 2)
    await one.release()
    assert await two.acquire()
    assert not await one.acquire()
    await two.add(reading(T0 + 10, room("a", 8)), 3)
    await two.add(reading(T0 + 60, room("a", 7)), 4)
    history = History()
    for chunk in await one.chunks(T0 + 61, 60):
        history.add(chunk)
    assert history.tracks["a", "tpm"].remaining == [10, 9, 8, 7]
    assert history.waiting == [1, 2, 3, 4]
    assert (await one.latest()).room == [room("a", 7)]
    assert await one.names(T0 + 61) == [("a", "tpm")]


async def test_all_that_is_stored_ends_by_itself_and_does_not_delay_a_reserve(store):
    samples = SampleStore(store, "test", "one")
    await samples.acquire()
    await samples.add(reading(T0, room("a", 10)), 0)
    await samples.put_waiting([Waiting("a", "tpm", "app", "", 1, 0.5)])
    names = await store.client.keys("*")
    assert len(names) == 4
    for name in names:
        assert name.startswith(b"qp:{test:samples}:")
        assert 0 < await store.client.ttl(name) <= 65 * 60


async def test_an_hour_of_two_hundred_series_takes_two_megabytes(store):
    samples = SampleStore(store, "test", "one")
    rooms = [room(f"gpt-model-{n:03}", n, n, d) for n in range(40) for d in ("rpm", "tpm", "rpd", "tpd", "ipm")]
    for n in range(720):
        await samples.add(reading(T0 + 5 * n, *rooms), 0)
    used = 0
    for minute in range(60):
        used += await store.client.memory_usage(f"{samples.prefix}:{int(T0 // 60) + minute}")
    assert 1_700_000 < used < 2_800_000


async def test_what_waits_is_added_up_over_replicas_and_forgotten_with_them(store):
    one, two = SampleStore(store, "test", "one"), SampleStore(store, "test", "two")
    await one.put_waiting([Waiting("a", "tpm", "app", "", 3, 1.0), Waiting("a", "", "app", "rpm", 1, 9.0)])
    await two.put_waiting([Waiting("a", "tpm", "app", "", 4, 2.5)])
    assert await one.waiting() == [Waiting("a", "tpm", "app", "", 7, 2.5), Waiting("a", "", "app", "rpm", 1, 9.0)]
    await one.put_waiting([])
    assert await two.waiting() == [Waiting("a", "tpm", "app", "", 4, 2.5)]


async def test_a_replica_that_died_counts_no_longer(store, monkeypatch):
    samples = SampleStore(store, "test", "one")
    await samples.put_waiting([Waiting("a", "tpm", "app", "", 3, 1.0)])
    then = time.time()
    monkeypatch.setattr(time, "time", lambda: then + 11)
    assert await samples.waiting() == []


async def test_at_most_fifty_rows_are_told(store):
    samples = SampleStore(store, "test", "one")
    await samples.put_waiting([Waiting("a", "tpm", f"app-{n}", "", 1 + (n < 49), float(n)) for n in range(1_000)])
    rows = await samples.waiting()
    assert len(rows) == MOST
    assert rows[-1] == Waiting("other", "", "other", "", 951, 999.0)
    assert sum(row.waiting for row in rows) == 49 * 2 + 951
