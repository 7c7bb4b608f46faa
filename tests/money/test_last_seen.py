"""When each client was last served is read from the spend."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from quotapool.money.last_seen import DAYS_LOOKED_AT, last_seen
from quotapool.money.spend_store import Entry, SpendStore

from tests.fakes.connect import connect

TODAY = date(2026, 11, 29)


@pytest.fixture
async def store(valkey_url):
    real = connect(valkey_url)
    yield real
    await real.close()


async def served(store, client: str, days_ago: int, **more) -> None:
    at = datetime(2026, 11, 29, 23, 59, tzinfo=UTC) - timedelta(days=days_ago)
    entry = Entry(account="a", key="a1", model="gpt-4o", client=client, kind="exact", pico=1, **more)
    await SpendStore(store, "test").add([entry], at=at)


async def test_it_is_the_latest_day_with_a_request(store):
    for client, days_ago in (
        ("app", 40),
        ("app", 3),
        ("web", 0),
        ("old", DAYS_LOOKED_AT - 1),
        ("older", DAYS_LOOKED_AT),
    ):
        await served(store, client, days_ago)
    found = await last_seen(store, "test", ["app", "web", "old", "older", "never"], TODAY)
    assert found == {
        "app": date(2026, 11, 26),
        "web": TODAY,
        "old": TODAY - timedelta(days=DAYS_LOOKED_AT - 1),
    }


async def test_each_pool_has_its_own_and_nobody_is_nobody(store):
    await served(store, "app", 0)
    assert await last_seen(store, "staging", ["app"], TODAY) == {}
    assert await last_seen(store, "test", [], TODAY) == {}
