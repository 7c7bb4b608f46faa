"""Replicas share one memory of alerts: each is told once, one replica watches, and nothing is missed over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.domain.states import Record, State
from quotapool.store.store import Store, connect

from tests.fakes.store import ledger_on

ALERT = Alert(AlertKind.CREDIT_LOW, "account acme", "little", 1.0)
SIX_HOURS = 21_600.0


@pytest.fixture
async def stores(valkey_url: str) -> AsyncIterator[list[Store]]:
    both = [connect(valkey_url), connect(valkey_url)]
    yield both
    for store in both:
        await store.close()


async def test_two_replicas_that_notice_the_same_tell_it_once(stores):
    boards = [SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores)]
    claims = await asyncio.gather(*(board.claim(ALERT, SIX_HOURS) for board in boards for _ in range(10)))
    assert sum(claims) == 1
    # Another subject is another alert, and so is the next expiry of the same account.
    assert await boards[0].claim(replace(ALERT, subject="account other"), SIX_HOURS)
    assert await boards[0].claim(replace(ALERT, occasion="2027-01-01"), SIX_HOURS)
    assert not await boards[1].claim(replace(ALERT, occasion="2027-01-01"), SIX_HOURS)


async def test_what_goes_on_is_told_again_after_its_time(stores):
    board = SharedAlertState(stores[0], "test", "a")
    client, mark = stores[0].client, f"qp:{{test:alerts}}:told:{ALERT.identity}"
    assert await board.claim(ALERT, SIX_HOURS)
    assert 21_590_000 < await client.pttl(mark) <= 21_600_000
    await client.delete(mark)  # as the store does then
    assert await board.claim(ALERT, SIX_HOURS)
    # An expiry is told once a day at most, however short repeat_after is.
    expiry = replace(ALERT, kind=AlertKind.EXPIRY)
    assert await board.claim(expiry, 60.0)
    assert await client.pttl(f"qp:{{test:alerts}}:told:{expiry.identity}") > 86_390_000


async def test_a_key_that_is_back_and_leaves_again_is_told_each_time(stores):
    board = SharedAlertState(stores[0], "test", "a")
    out = Alert(AlertKind.KEY_QUARANTINED, "key alpha", "out", 1.0)
    back = Alert(AlertKind.KEY_BACK, "key alpha", "back", 2.0, Severity.INFO)
    told = [await board.claim(alert, SIX_HOURS) for alert in (out, out, back, back, out, back)]
    assert told == [True, False, True, False, True, True]


async def test_network_trouble_that_comes_again_is_told_again(stores):
    board = SharedAlertState(stores[0], "test", "a")
    trouble = Alert(AlertKind.EGRESS, "pool", "refused", 1.0)
    well = replace(trouble, occasion="well")
    told = [await board.claim(alert, SIX_HOURS) for alert in (trouble, trouble, well, trouble)]
    assert told == [True, False, True, True]


async def test_one_replica_watches_and_the_other_takes_over_when_it_leaves(stores):
    first, second = (SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores))
    assert await first.watch()
    assert not await second.watch()
    assert await first.watch()
    await second.leave()  # who does not watch takes nothing away
    assert not await second.watch()
    await first.leave()
    assert await second.watch()
    # One that died leaves a lease that ends by itself.
    assert 0 < await stores[0].client.pttl("qp:{test:alerts}:watch") <= 15_000


async def test_events_are_read_once_in_order_from_where_the_last_reader_stopped(stores):
    ledger = ledger_on(stores[0])
    gone = Record(State.REMOVED, "invalid_api_key", 0)
    await ledger.registry.change_state("k/before", gone, fingerprint="")
    first, second = (SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores))
    await first.begin()
    assert await first.news() == []  # the pool told nobody before; what was is no news
    await ledger.registry.change_state("k/one", gone, fingerprint="")
    await ledger.registry.change_state("k/two", gone, fingerprint="")
    assert [event["field"] for event in await first.news()] == ["k/one", "k/two"]
    await ledger.registry.change_state("k/three", gone, fingerprint="")
    await second.begin()  # a replica that starts later does not skip what is unread
    assert [(event["field"], event["to"]) for event in await second.news()] == [("k/three", "removed")]
    assert await first.news() == []


async def test_what_happened_while_nobody_wanted_to_be_told_is_no_news(stores):
    board, ledger = SharedAlertState(stores[0], "test", "a"), ledger_on(stores[0])
    await board.begin()
    await ledger.registry.change_state("k/one", Record(State.REMOVED, "x", 0), fingerprint="")
    await board.forget()
    assert await board.news() == []
    await ledger.registry.change_state("k/two", Record(State.REMOVED, "x", 0), fingerprint="")
    assert [event["field"] for event in await board.news()] == ["k/two"]


async def test_a_pool_without_any_event_begins_at_its_beginning(stores):
    board = SharedAlertState(stores[0], "test", "a")
    await board.begin()
    assert await board.news() == []
    await ledger_on(stores[0]).registry.change_state("k/one", Record(State.REMOVED, "x", 0), fingerprint="")
    assert [event["field"] for event in await board.news()] == ["k/one"]
