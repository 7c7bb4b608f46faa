"""What all replicas share: tallies on their way, what is named, and who judges. A real store."""

from __future__ import annotations

import pytest
from quotapool.domain.outside_tally import Tally
from quotapool.domain.outside_use import Judgement
from quotapool.outside.shared_tallies import SharedTallies, Stored

from tests.fakes.connect import connect

ACME, OTHER = ("acme", "gpt-5"), ("other", "gpt-5")


@pytest.fixture
async def store(valkey_url):
    made = connect(valkey_url)
    yield made
    await made.close()


def tally(at: float, lacks: int, times: int = 1) -> Tally:
    made = Tally()
    for _ in range(times):
        made.requests.note_requests(at, 60.0, 60.0, lacks, 1.0, -1.5)
    return made


async def test_the_tallies_of_all_processes_are_added_once(store):
    outside = SharedTallies(store, "test")
    place = await outside.end()
    await outside.add({ACME: tally(10.0, 2, 3), OTHER: tally(10.0, 1)})
    await outside.add({ACME: tally(9.0, 1, 2)})
    sums, place = await outside.since(place)
    found = sums[ACME].requests
    assert (found.answers, found.more, found.at, found.taught) == (5, 3, 10.0, -1.5)
    assert (sums[OTHER].requests.answers, sums[OTHER].day) == (1, None)
    # I expect nothing twice.
    assert await outside.since(place) == ({}, place)


async def test_who_begins_to_judge_does_not_judge_what_was_before(store):
    outside = SharedTallies(store, "test")
    await outside.add({ACME: tally(10.0, 2)})
    assert await outside.since(await outside.end()) == ({}, await outside.end())


async def test_a_large_pool_is_sent_in_parts_and_what_nobody_reads_is_bounded(store):
    outside = SharedTallies(store, "test")
    await outside.add({(f"a-{n}", "gpt-5"): tally(10.0, 2) for n in range(450)})
    assert await store.client.xlen("qp:{test:outside}:tallies") == 3
    sums, _ = await outside.since("0-0")
    assert len(sums) == 450
    for n in range(1_000):
        await outside.add({ACME: tally(float(n), 2)})
    assert await store.client.xlen("qp:{test:outside}:tallies") < 600
    assert 0 < await store.client.ttl("qp:{test:outside}:tallies") <= 600


async def test_what_is_named_comes_back_as_it_was(store):
    outside = SharedTallies(store, "test")
    named = Stored(10.0, Judgement(by_requests=16.0, since=10.0, seen=65.0))
    await outside.put(ACME, named)
    assert await outside.named() == {ACME: named}
    await outside.forget(ACME)
    assert await outside.named() == {}


async def test_one_replica_judges_until_it_lets_go(store):
    one, other = SharedTallies(store, "test", "one"), SharedTallies(store, "test", "other")
    assert (await one.acquire(), await other.acquire(), await one.acquire()) == (True, False, True)
    await other.release()  # it is not its own
    assert not await other.acquire()
    await one.release()
    assert await other.acquire()
