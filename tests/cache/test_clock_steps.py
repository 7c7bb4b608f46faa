"""No answer is served beyond its time, also after the store's clock was set; times are of virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quotapool.cache.store import LEAD, MISSING, Found

from tests.fakes.caches import PREFIX, entry, name, processes, served

pytestmark = pytest.mark.usefixtures("virtual_time")
ONE, OTHER = name(1), name(2)


@pytest.fixture
async def pair(valkey_url):
    async with processes(valkey_url) as made:
        for one in made:
            await one.ask(name(999), lead=False)
        yield made


async def test_an_entry_has_an_age_and_an_end(pair):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=60)
    for _ in range(5):
        await asyncio.sleep(10)
        assert served(await other.ask(ONE)) == entry(1)
    found = await other.ask(ONE)
    assert isinstance(found, Found)
    assert found.age_s == pytest.approx(50, abs=0.1)
    await asyncio.sleep(10)
    assert await other.ask(ONE, lead=False) == MISSING
    assert await one.ask(ONE) == LEAD


@pytest.mark.parametrize("ttl_s", [0.1, 1.0, 3.0, 3600.0])
async def test_it_ends_up_to_half_a_second_early_and_never_late(pair, ttl_s):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=ttl_s)
    early_s = min(0.5, ttl_s / 2)
    await asyncio.sleep(ttl_s - early_s - 0.01)
    assert served(await other.ask(ONE, lead=False)) == entry(1)
    await asyncio.sleep(0.01)
    assert await other.ask(ONE, lead=False) == MISSING


async def test_an_entry_that_is_older_than_asked_for_is_a_miss_and_stays_for_others(pair):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=60)
    await asyncio.sleep(10)
    assert await other.ask(ONE, max_age_s=9, lead=False) == MISSING
    assert served(await other.ask(ONE, max_age_s=11)) == entry(1)
    assert await other.ask(ONE, max_age_s=0) == LEAD
    assert served(await one.ask(ONE)) == entry(1)


@pytest.mark.parametrize("by", [-3600.0, -10.0, -1.0])
@pytest.mark.parametrize("idle_s", [0.0, 20.0])
async def test_nothing_from_before_the_clock_was_set_back_is_served(pair, virtual_time, by, idle_s):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=60)
    await asyncio.sleep(idle_s)  # in which nobody calls: then only the process' own clock shows the step
    virtual_time.set_store_clock(by)
    assert await other.ask(ONE, lead=False) == MISSING
    # and what is stored from now on is, in both processes
    await one.ask(ONE)
    await one.keep(ONE, entry(2), ttl_s=60)
    for each in pair:
        assert served(await each.ask(ONE)) == entry(2)


async def test_after_the_clock_was_set_back_and_right_again_neither_is_served(pair, virtual_time):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=600)
    virtual_time.set_store_clock(3600)
    assert await other.ask(ONE, lead=False) == MISSING  # it has ended, by the clock
    await one.ask(OTHER, lead=False)
    await one.keep(OTHER, entry(2), ttl_s=600)
    assert served(await other.ask(OTHER)) == entry(2)
    virtual_time.set_store_clock(-3600)
    assert await other.ask(OTHER, lead=False) == MISSING
    assert await other.ask(ONE, lead=False) == MISSING


async def test_one_step_ends_entries_once_whoever_notices_it(pair, virtual_time):
    one, other = pair
    await asyncio.sleep(20)
    virtual_time.set_store_clock(-10)
    await one.ask(ONE, lead=False)
    await one.keep(ONE, entry(1), ttl_s=60)
    for _ in range(5):
        await asyncio.sleep(1)
        assert served(await other.ask(ONE)) == entry(1)  # who has not called since the step
        assert served(await one.ask(ONE)) == entry(1)


async def test_an_entry_on_its_way_while_the_clock_is_set_back_is_not_kept(pair, virtual_time):
    one, other = pair
    await one.ask(ONE)
    virtual_time.set_store_clock(-60)
    await one.keep(ONE, entry(1), ttl_s=600)
    assert one.unkept == ["late"]
    assert await other.ask(ONE) == LEAD  # the lease was given back


async def test_a_process_that_renews_follows_the_clock(pair, virtual_time):
    one, other = pair
    await other.keep(ONE, entry(1), ttl_s=60)
    await asyncio.sleep(30)
    one.renew()
    await one.settled()
    virtual_time.set_store_clock(-20)
    async with processes(f"unix://{other.store._address.path}", 1) as [new]:  # knows nothing but what the store shows
        assert await new.ask(ONE, lead=False) == MISSING


async def test_an_entry_from_the_future_is_a_miss_even_if_nobody_saw_the_step(pair, virtual_time):
    one, other = pair
    await one.keep(ONE, entry(1), ttl_s=7200)
    await other.store.client.delete(f"{PREFIX}:clock")
    virtual_time.set_store_clock(-3600)
    async with processes(f"unix://{other.store._address.path}", 1) as [new]:  # whose own clock knows nothing yet
        assert await new.ask(ONE, lead=False) == MISSING
        assert (await new.stats()).entries == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 5.0, 30.0]), st.sampled_from([0.0, 0.0, -0.7, 3.0, -3.0, -100.0, 100.0])),
        max_size=12,
    )
)
async def test_whatever_the_clock_does_no_entry_is_served_after_its_time(pair, virtual_time, steps):
    one, other = pair
    await asyncio.gather(one.clear(), other.ask(OTHER, lead=False))
    await one.ask(ONE, lead=False)
    await one.keep(ONE, entry(1), ttl_s=20)
    kept = virtual_time.monotonic()
    for n, (sleep_s, by) in enumerate(steps):
        await asyncio.sleep(sleep_s)
        virtual_time.set_store_clock(by)
        if isinstance(await pair[n % 2].ask(ONE, lead=False), Found):
            assert virtual_time.monotonic() - kept <= 20


async def test_ended_entries_are_removed_while_processes_run(pair):
    one, _ = pair
    for n in range(150):
        one.put(name(n), entry(n), ttl_s=5 if n < 100 else 50, client="app")
    await one.settled()
    assert (await one.stats()).entries == 150
    await asyncio.sleep(10)
    for _ in range(2):
        one.renew()
        await one.settled()
    stats = await one.stats()
    assert (stats.entries, stats.expired) == (50, 100)
