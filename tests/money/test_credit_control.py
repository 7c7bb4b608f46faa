"""Credit control on a real store: which accounts are stopped and freed, by any number of replicas; what a day is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
from quotapool.domain.pool import Key, Pool
from quotapool.domain.states import OBSERVED, OPERATOR, WALLET, Record, State
from quotapool.domain.wallet import PICO
from quotapool.ledger.budgets import Ledger
from quotapool.money.credit_control import CreditControl, day_around
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.settings import Settings
from quotapool.store.store import Store

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
KEYS = [Key("alpha-1", "alpha", "fp1"), Key("alpha-2", "alpha", "fp2"), Key("beta", "beta", "fp3")]


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    store = connect(valkey_url)
    yield store
    await store.close()


def settings(**more) -> Settings:
    return Settings.model_validate({"pool": "test", **more})


def credit_control(store: Store, configured: Settings) -> tuple[CreditControl, Ledger]:
    ledger = ledger_on(store)
    return CreditControl(configured, ledger, SpendStore(store, "test"), Pool(KEYS)), ledger


async def spend(store: Store, account: str, usd: float, at: datetime = NOW) -> None:
    entry = Entry(account, f"{account}-1", "gpt-4o", "", "exact", round(usd * PICO))
    await SpendStore(store, "test").add([entry], at=at)


WITH_CREDIT = {"alpha": {"grants": [{"usd": 100}], "stop_at": 0.98}}


async def test_an_account_stops_at_its_share_and_serves_again_when_there_is_more(store):
    credit, ledger = credit_control(store, settings(accounts=WITH_CREDIT))
    await spend(store, "alpha", 97)
    await credit.tick(NOW)
    assert await ledger.registry.records() == {}
    await spend(store, "alpha", 1)
    await credit.tick(NOW)
    record = (await ledger.registry.records())["a/alpha"]
    assert (record.state, record.reason, record.by, record.until) == (
        State.QUARANTINED,
        "credit_stop_at",
        WALLET,
        0.0,
    )
    await credit.topup("alpha", 50, NOW.date(), None, NOW)
    await credit.tick(NOW)
    assert await ledger.registry.records() == {}


async def test_a_month_that_is_spent_stops_until_the_next_one(store):
    credit, ledger = credit_control(
        store, settings(accounts={"alpha": {"monthly_limit_usd": 50}}, spend={"stop_at": 1.0})
    )
    await spend(store, "alpha", 50)
    await credit.tick(NOW)
    assert (await ledger.registry.records())["a/alpha"].reason == "monthly_stop_at"
    await credit.tick(datetime(2026, 12, 1, tzinfo=UTC))
    assert await ledger.registry.records() == {}


async def test_replicas_agree_and_change_a_state_once(store):
    controls = [credit_control(store, settings(accounts=WITH_CREDIT)) for _ in range(3)]
    await spend(store, "alpha", 99)
    for _ in range(2):
        await asyncio.gather(*(credit.tick(NOW) for credit, _ in controls))
    assert await store.client.xlen("qp:{test}:events") == 1


async def test_states_set_by_an_operator_or_for_an_upstream_answer_stay(store):
    credit, ledger = credit_control(store, settings(accounts=WITH_CREDIT))
    await spend(store, "alpha", 99)
    print_ = "fp1+fp2"
    for by, state in ((OPERATOR, State.DISABLED), (OBSERVED, State.REMOVED)):
        await ledger.registry.change_state(
            "a/alpha", Record(state, "said", 0, by=by, fingerprint=print_), fingerprint=print_
        )
        await credit.tick(NOW)
        assert (await ledger.registry.records())["a/alpha"].by == by
        await ledger.registry.change_state("a/alpha", None, by=OPERATOR, fingerprint=print_)


async def test_a_suspect_account_without_money_is_stopped_too_since_a_suspect_may_be_tried(store):
    credit, ledger = credit_control(store, settings(accounts=WITH_CREDIT))
    await spend(store, "alpha", 99)
    doubtful = Record(State.SUSPECT, "unknown_403", 0, fingerprint="fp1+fp2")
    await ledger.registry.change_state("a/alpha", doubtful, rest_s=30, fingerprint="fp1+fp2")
    await credit.tick(NOW)
    assert (await ledger.registry.records())["a/alpha"].reason == "credit_stop_at"


async def test_an_account_that_upstream_refused_is_not_freed_because_we_think_there_is_money(store):
    credit, ledger = credit_control(store, settings(accounts=WITH_CREDIT))
    empty = Record(State.QUARANTINED, "insufficient_quota", 0, fingerprint="fp1+fp2")
    await ledger.registry.change_state("a/alpha", empty, rest_s=60, fingerprint="fp1+fp2")
    await credit.tick(NOW)
    assert (await ledger.registry.records())["a/alpha"].reason == "insufficient_quota"


async def test_without_stop_at_only_upstream_decides_when_credit_is_used_up(store):
    credit, ledger = credit_control(store, settings(accounts={"alpha": {"grants": [{"usd": 1}]}}))
    await spend(store, "alpha", 5)
    status = await credit.tick(NOW)
    assert status.wallets["alpha"].remaining == 0
    assert await ledger.registry.records() == {}


async def test_a_stop_holds_for_an_account_that_gets_another_key_and_ends_with_its_option(store):
    credit, ledger = credit_control(store, settings(accounts=WITH_CREDIT))
    await spend(store, "alpha", 99)
    await credit.tick(NOW)
    other = Pool([*KEYS, Key("alpha-3", "alpha", "fp9")])
    again = CreditControl(settings(accounts=WITH_CREDIT), ledger, SpendStore(store, "test"), other)
    await again.tick(NOW)
    other.apply_states(await ledger.registry.records())
    assert not other.accounts["alpha"].usable
    again.settings = settings(accounts={"alpha": {"grants": [{"usd": 100}]}})
    await again.tick(NOW)
    assert await ledger.registry.records() == {}


async def test_a_top_up_on_a_day_with_spending_counts_in_full(store):
    credit, _ = credit_control(store, settings())
    await spend(store, "alpha", 300)  # of credit that nobody recorded
    await credit.topup("alpha", 50, NOW.date(), None, NOW)
    assert (await credit.assess(NOW)).wallets["alpha"].remaining == 50 * PICO
    await spend(store, "alpha", 1)
    assert (await credit.assess(NOW)).wallets["alpha"].remaining == 49 * PICO


async def test_spend_that_is_stored_late_is_read_within_a_minute_for_yesterday_and_within_an_hour_for_the_week(store):
    credit, _ = credit_control(store, settings(accounts=WITH_CREDIT))
    await credit.assess(NOW)
    await spend(store, "alpha", 1, NOW - timedelta(1))
    await spend(store, "alpha", 1, NOW - timedelta(5))
    assert (await credit.assess(NOW + timedelta(seconds=61))).wallets["alpha"].remaining == 99 * PICO
    assert (await credit.assess(NOW + timedelta(hours=1, seconds=1))).wallets["alpha"].remaining == 98 * PICO


async def test_a_grant_from_last_year_is_charged_with_all_that_was_spent_since(store):
    await spend(store, "alpha", 7, NOW - timedelta(300))
    credit, _ = credit_control(store, settings())
    assert "alpha" not in (await credit.assess(NOW)).wallets  # nothing needs days that long ago
    await credit.topup("alpha", 50, (NOW - timedelta(301)).date(), None, NOW)
    assert (await credit.assess(NOW)).wallets["alpha"].remaining == 43 * PICO


async def test_the_daily_limit_closes_the_pool_until_midnight_in_the_configured_time_zone(store):
    credit, _ = credit_control(store, settings(spend={"daily_limit_usd": 10, "time_zone": "Asia/Shanghai"}))
    # Noon UTC is 20:00 in Shanghai, whose day began at 16:00 UTC the day before.
    await spend(store, "alpha", 50, datetime(2026, 11, 14, 15, 59, tzinfo=UTC))
    await spend(store, "alpha", 9, datetime(2026, 11, 14, 16, 0, tzinfo=UTC))
    status = await credit.assess(NOW)
    assert (status.spent_today, status.closed_until) == (9 * PICO, 0.0)
    await spend(store, "beta", 1)
    status = await credit.assess(NOW)
    assert status.spent_today == 10 * PICO
    assert status.closed_until == datetime(2026, 11, 15, 16, tzinfo=UTC).timestamp()
    # The next day is open again.
    assert (await credit.assess(datetime(2026, 11, 15, 16, 1, tzinfo=UTC))).closed_until == 0.0


def test_a_day_with_a_clock_change_has_23_or_25_hours():
    start, end = day_around(datetime(2026, 3, 29, 12, tzinfo=UTC), "Europe/Berlin")
    assert (start, end) == (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))


async def test_only_accounts_whose_credit_would_expire_unused_are_urgent(store):
    week = {"usd": 100, "expires_on": (NOW + timedelta(7)).date()}
    years = {"usd": 100, "expires_on": date(2099, 1, 1)}
    credit, _ = credit_control(
        store, settings(accounts={"alpha": {"grants": [week]}, "beta": {"grants": [{"usd": 5}]}})
    )
    # An idle account loses all of it: most urgent. One whose credit never expires is not urgent.
    assert (await credit.assess(NOW)).urgency == {"alpha": 8.0}
    credit.settings = settings(accounts={"alpha": {"grants": [years]}})
    await spend(store, "alpha", 1)
    assert (await credit.assess(NOW)).urgency == {}


async def test_a_resting_account_may_be_tried_at_once_but_not_one_stopped_by_an_operator_or_for_its_wallet(store):
    _, ledger = credit_control(store, settings())
    empty = Record(State.QUARANTINED, "insufficient_quota", 0)
    await ledger.registry.change_state("a/alpha", empty, rest_s=3600, fingerprint="fp1+fp2")
    await ledger.registry.change_state("k/beta", Record(State.DISABLED, "operator", 0, by=OPERATOR), fingerprint="fp3")
    stop = Record(State.QUARANTINED, "credit_stop_at", 0, by=WALLET)
    await ledger.registry.change_state("a/beta", stop, by=WALLET, fingerprint="fp3")
    before = await ledger.registry.records()
    assert await ledger.registry.try_now(State.QUARANTINED, ["a/alpha", "k/beta", "a/beta", "a/nobody"]) == 1
    after = await ledger.registry.records()
    assert after["a/alpha"].until <= before["a/alpha"].until - 3599
    assert after["a/alpha"].may_be_tried
    assert {name: after[name] for name in ("k/beta", "a/beta")} == {name: before[name] for name in ("k/beta", "a/beta")}


async def test_an_account_with_a_limit_is_read_every_time_and_one_without_less_often(store):
    credit, _ = credit_control(store, settings(accounts={"alpha": {"monthly_limit_usd": 100}}))
    await credit.tick(NOW)
    await spend(store, "alpha", 7, NOW)
    await spend(store, "beta", 3, NOW)

    soon = (await credit.tick(NOW + timedelta(seconds=2))).wallets
    assert soon["alpha"].month_spent == 7 * PICO
    assert "beta" not in soon

    later = (await credit.tick(NOW + timedelta(seconds=20))).wallets
    assert {name: wallet.month_spent for name, wallet in later.items()} == {"alpha": 7 * PICO, "beta": 3 * PICO}


async def test_a_limit_that_is_removed_from_the_configuration_frees_its_account_at_the_next_assessment(store):
    limited = settings(accounts={"alpha": {"monthly_limit_usd": 50}}, spend={"stop_at": 1.0})
    credit, ledger = credit_control(store, limited)
    await spend(store, "alpha", 50)
    await credit.tick(NOW)
    assert list(await ledger.registry.records()) == ["a/alpha"]
    credit.settings = settings(spend={"stop_at": 1.0})
    await credit.tick(NOW + timedelta(seconds=2))
    assert await ledger.registry.records() == {}
