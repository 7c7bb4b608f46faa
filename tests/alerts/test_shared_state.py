"""Replicas share the state of alerts: each is raised once, one replica watches, and a restart misses none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.domain.states import Record, State
from quotapool.store.store import Store

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

ALERT = Alert(AlertKind.CREDIT_LOW, "account acme", "little", 1.0)
SIX_HOURS = 21_600.0


@pytest.fixture
async def stores(valkey_url: str) -> AsyncIterator[list[Store]]:
    both = [connect(valkey_url), connect(valkey_url)]
    yield both
    for store in both:
        await store.close()


async def test_two_replicas_that_notice_the_same_raise_one_alert(stores):
    states = [SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores)]
    claims = await asyncio.gather(*(state.claim(ALERT, SIX_HOURS) for state in states for _ in range(10)))
    assert sum(claims) == 1
    # Another subject is another alert, and so is the next expiry of the same account.
    assert await states[0].claim(replace(ALERT, subject="account other"), SIX_HOURS)
    assert await states[0].claim(replace(ALERT, occasion="2027-01-01"), SIX_HOURS)
    assert not await states[1].claim(replace(ALERT, occasion="2027-01-01"), SIX_HOURS)


async def test_a_lasting_condition_is_repeated_after_its_time(stores):
    state = SharedAlertState(stores[0], "test", "a")
    client, mark = stores[0].client, f"qp:{{test:alerts}}:told:{ALERT.identity}"
    assert await state.claim(ALERT, SIX_HOURS)
    assert 21_590_000 < await client.pttl(mark) <= 21_600_000
    await client.delete(mark)  # as the store does then
    assert await state.claim(ALERT, SIX_HOURS)
    # An expiry is repeated once a day at most, however short repeat_after is.
    expiry = replace(ALERT, kind=AlertKind.EXPIRY)
    assert await state.claim(expiry, 60.0)
    assert await client.pttl(f"qp:{{test:alerts}}:told:{expiry.identity}") > 86_390_000


async def test_a_key_that_is_back_and_leaves_again_raises_an_alert_each_time(stores):
    state = SharedAlertState(stores[0], "test", "a")
    out = Alert(AlertKind.KEY_QUARANTINED, "key alpha", "out", 1.0)
    back = Alert(AlertKind.KEY_BACK, "key alpha", "back", 2.0, Severity.INFO)
    raised = [await state.claim(alert, SIX_HOURS) for alert in (out, out, back, back, out, back)]
    assert raised == [True, False, True, False, True, True]


async def test_network_trouble_that_comes_again_raises_another_alert(stores):
    state = SharedAlertState(stores[0], "test", "a")
    trouble = Alert(AlertKind.EGRESS, "pool", "refused", 1.0)
    well = replace(trouble, occasion="well")
    raised = [await state.claim(alert, SIX_HOURS) for alert in (trouble, trouble, well, trouble)]
    assert raised == [True, False, True, True]


async def test_one_replica_watches_and_the_other_takes_over_when_it_leaves(stores):
    first, second = (SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores))
    assert await first.acquire_watch()
    assert not await second.acquire_watch()
    assert await first.acquire_watch()
    await second.release_watch()  # has no effect: it does not watch
    assert not await second.acquire_watch()
    await first.release_watch()
    assert await second.acquire_watch()
    # One that was killed leaves a lease that expires.
    assert 0 < await stores[0].client.pttl("qp:{test:alerts}:watch") <= 15_000


async def test_events_are_read_once_in_order_from_where_the_last_reader_stopped(stores):
    ledger = ledger_on(stores[0])
    gone = Record(State.REMOVED, "invalid_api_key", 0)
    await ledger.registry.change_state("k/before", gone, fingerprint="")
    first, second = (SharedAlertState(store, "test", f"replica-{n}") for n, store in enumerate(stores))
    await first.set_cursor()
    assert await first.new_events() == []  # there was no cursor before: older events raise no alert
    await ledger.registry.change_state("k/one", gone, fingerprint="")
    await ledger.registry.change_state("k/two", gone, fingerprint="")
    assert [event["field"] for event in await first.new_events()] == ["k/one", "k/two"]
    await ledger.registry.change_state("k/three", gone, fingerprint="")
    await second.set_cursor()  # a replica that starts later does not skip what is unread
    assert [(event["field"], event["to"]) for event in await second.new_events()] == [("k/three", "removed")]
    assert await first.new_events() == []


async def test_events_without_any_target_raise_no_alert_later(stores):
    state, ledger = SharedAlertState(stores[0], "test", "a"), ledger_on(stores[0])
    await state.set_cursor()
    await ledger.registry.change_state("k/one", Record(State.REMOVED, "x", 0), fingerprint="")
    await state.clear_cursor()
    assert await state.new_events() == []
    await ledger.registry.change_state("k/two", Record(State.REMOVED, "x", 0), fingerprint="")
    assert [event["field"] for event in await state.new_events()] == ["k/two"]


async def test_a_pool_without_any_event_begins_at_its_beginning(stores):
    state = SharedAlertState(stores[0], "test", "a")
    await state.set_cursor()
    assert await state.new_events() == []
    await ledger_on(stores[0]).registry.change_state("k/one", Record(State.REMOVED, "x", 0), fingerprint="")
    assert [event["field"] for event in await state.new_events()] == ["k/one"]
