"""What workers tallied is judged by one replica, and told; another one goes on where it was."""

from __future__ import annotations

import pytest
from quotapool.app.outside_watching import OutsideWatching
from quotapool.domain.outside_tally import Tally
from quotapool.domain.outside_use import SLICE_S
from quotapool.observe.events import Events
from quotapool.outside.shared_tallies import SharedTallies

from tests.fakes.supervised import Pool

NAME = ("a-00000", "gpt-4o")


@pytest.fixture
async def open_pool_of(valkey_url):
    opened: list[Pool] = []

    async def open_(keys: int, **options) -> Pool:
        pool = Pool(valkey_url, keys, **options)
        opened.append(pool)
        await pool.ledger.registry.begin_epoch(reseeded=False)
        await pool.overview.start()
        return pool

    yield open_
    for pool in opened:
        await pool.close()


def a_slice(at: float, others: float) -> Tally:
    """Ten seconds of our own requests, one a second at a limit of 60 in which each found the bucket full; where others
    use it, upstream lacks so many more."""
    tally = Tally()
    for n in range(10):
        tally.requests.note_requests(at + n, 60.0, 60.0, 1.0 + others, 1.0, 0.0)
    return tally


async def told(pool: Pool) -> list[str]:
    found = await Events(pool.store, "test").latest(100, lambda data: data.get("kind") == "outside_use")
    return [event.data["to"] for event in reversed(found)]


async def told_after(pool: Pool, watchings: list[OutsideWatching], slices: int, others: float, at: float) -> float:
    sender = SharedTallies(pool.store, "test")
    for n in range(slices):
        await sender.add({NAME: a_slice(at, others)})
        await watchings[n % len(watchings)].tick()
        at += SLICE_S
    return at


async def test_outside_use_is_named_and_shown_and_our_own_use_is_not(open_pool_of):
    pool = await open_pool_of(2)
    watching = OutsideWatching(pool.overview)
    await watching.tick()
    at = await told_after(pool, [watching], 30, 0.0, await pool.ledger.registry.time())
    assert await told(pool) == []
    await told_after(pool, [watching], 30, 5.0, at)  # five minutes
    assert await told(pool) == ["outside_use"]
    assert [row.account for row in (await pool.now.read()).outside_use] == ["a-00000"]


async def test_an_account_that_is_shared_on_purpose_is_not_named(open_pool_of):
    pool = await open_pool_of(2, outside_use={"accounts_shared": ["a-00000"]})
    watching = OutsideWatching(pool.overview)
    await watching.tick()
    await told_after(pool, [watching], 30, 5.0, await pool.ledger.registry.time())
    assert await told(pool) == []


async def test_another_replica_goes_on_where_the_first_one_stopped(open_pool_of):
    first, second = await open_pool_of(2), await open_pool_of(2)
    one, other = OutsideWatching(first.overview), OutsideWatching(second.overview)
    await one.tick()
    at = await told_after(first, [one, other], 30, 5.0, await first.ledger.registry.time())
    assert await told(first) == ["outside_use"]
    await one.stop()
    await other.tick()
    await told_after(second, [other], 10, 5.0, at)
    assert await told(first) == ["outside_use"]
    (named,) = await second.overview.outside.named()
    assert named.account == "a-00000"


async def test_switched_off_while_it_is_named_it_ends(open_pool_of):
    pool, off = await open_pool_of(2), await open_pool_of(2, outside_use={"enabled": False})
    watching = OutsideWatching(pool.overview)
    await watching.tick()
    await told_after(pool, [watching], 30, 5.0, await pool.ledger.registry.time())
    await watching.stop()
    await OutsideWatching(off.overview).tick()
    assert await told(pool) == ["outside_use", "none"]
