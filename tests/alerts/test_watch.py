"""Each alert is raised once, over all replicas, and only if some target wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.alerts.watch import AlertWatch, Condition, pool_headroom
from quotapool.domain.alert import Alert, AlertKind
from quotapool.domain.bucket import Bucket
from quotapool.domain.pool import Key, Pool
from quotapool.domain.states import Record, State
from quotapool.domain.wallet import PICO, Grant, wallet
from quotapool.settings import Settings
from quotapool.store.store import Store

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
ALL = {"url": "https://ops.example.com/hook"}


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    store = connect(valkey_url)
    yield store
    await store.close()


def watch_on(store: Store, pool: Pool, owner: str = "a", **alerts: Any) -> tuple[AlertWatch, list[Alert]]:
    raised: list[Alert] = []
    settings = Settings.model_validate({"pool": "test", "alerts": {"targets": [ALL], **alerts}})
    return AlertWatch(settings, SharedAlertState(store, "test", owner), pool, raised.append), raised


async def test_a_removed_key_raises_one_alert_whichever_replica_reads(store):
    pool = Pool([Key("alpha", "alpha", "fp")])
    (first, of_first), (second, of_second) = watch_on(store, pool, "a"), watch_on(store, pool, "b")
    await SharedAlertState(store, "test", "a").set_cursor()
    gone = Record(State.REMOVED, "account_deactivated", 0, status=401, message="deactivated", fingerprint="fp")
    await ledger_on(store).registry.change_state("a/alpha", gone, fingerprint="fp")
    assert await first.read_events() + await second.read_events() == 1
    assert [alert.kind for alert in [*of_first, *of_second]] == [AlertKind.KEY_REMOVED]


async def test_a_condition_that_two_replicas_see_raises_one_alert(store):
    pool = Pool([Key("alpha", "alpha", "fp")])
    pool.apply_states({"k/alpha": Record(State.DISABLED, "operator", 0, by="operator")})
    (first, of_first), (second, of_second) = watch_on(store, pool, "a"), watch_on(store, pool, "b")
    for watch in (first, second, first):
        await watch.check(Condition(NOW))
    assert [alert.kind for alert in [*of_first, *of_second]] == [AlertKind.USABLE_KEYS]


async def test_one_check_raises_alerts_about_all_that_is_wrong_with_a_pool(store):
    pool = Pool([Key("alpha", "alpha", "fp"), Key("beta", "beta", "fp")])
    watch, raised = watch_on(store, pool, min_usable_keys=3, credit_below_usd=5, min_headroom=0.1)
    poor = wallet([Grant(4 * PICO, None, NOW.date() + timedelta(3))], {}, NOW)
    seen = Condition(
        NOW,
        {"alpha": poor},
        10 * PICO,
        NOW.timestamp() + 3600,
        {NOW - timedelta(n): PICO for n in (1, 2, 3)} | {NOW: 9 * PICO},
        {("gpt-4o", "tpm"): 0.05, ("gpt-4o", "rpm"): 0.5},
        {"beta": NOW.timestamp() + 3600},
    )
    await watch.check(seen)
    wanted = {"usable_keys", "spend_rate", "daily_limit", "credit_low"}
    assert {alert.kind.value for alert in raised} == wanted | {"expiry"}
    assert sum(alert.kind is AlertKind.EXPIRY for alert in raised) == 2  # the credit's and the key's
    # The head-room must be low for five minutes.
    later = NOW + timedelta(minutes=5)
    await watch.check(Condition(later, headroom=seen.headroom))
    assert [(a.kind, a.subject) for a in raised[6:]] == [(AlertKind.HEADROOM, "model gpt-4o")]


async def test_an_alert_that_no_target_wants_is_not_marked_as_raised(store):
    pool = Pool()
    watch, raised = watch_on(store, pool, targets=[{**ALL, "kinds": ["brake"]}])
    await watch.check(Condition(NOW))
    assert raised == []
    assert await store.client.keys("qp:{test:alerts}:told:*") == []


def test_headroom_is_of_the_usable_accounts_budgets_together():
    pool = Pool([Key("a", "a", "f"), Key("b", "b", "f"), Key("c", "c", "f")])
    pool.apply_states({"k/c": Record(State.REMOVED, "dead", 0)})
    settings = Settings()

    def bucket(rpm_left: float, learned: float) -> Bucket:
        full = Bucket(at=100.0)
        full.learned[0] = learned
        full.refill(100.0, settings.limits_for("a", "m"))
        full.kept[0] = full.corrected[0] = rpm_left
        return full

    buckets = {("a", "m"): bucket(10, 100), ("b", "m"): bucket(50, 300), ("c", "m"): bucket(500, 500)}
    # (10 + 50) / (100 + 300); the removed account's room does not count.
    assert pool_headroom(pool, settings, buckets, 100.0)["m", "rpm"] == pytest.approx(0.15)
