"""What clients were spared: requests that were served although something failed or was short, and cached tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.money.price_list import PriceList
from quotapool.money.question import question
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.money.rescues import rescues_of
from quotapool.money.savings import savings
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.money.usage_report import report

from tests.fakes.connect import connect

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
# 1.25 and 0.125 USD for a million tokens; fast: twice that
CARDS = CardSet(
    rules=(Rule("equals", "gpt-5", "gpt-5"), Rule("equals", "plain", "plain")),
    cards={
        "gpt-5": {
            "default": RateCard(input=1_250_000, cached_input=125_000, output=1),
            "priority": RateCard(input=2_500_000, cached_input=250_000, output=1),
        },
        "plain": {"default": RateCard(input=1_000_000, output=1)},
    },
)


@pytest.fixture
async def store(valkey_url):
    connection = connect(valkey_url)
    yield SpendStore(connection, "test")
    await connection.close()


def served(*outcomes: str, status: int = 200, code: str = "", queued_s: float = 0.0) -> RequestRecord:
    record = RequestRecord("qp_1", 0.0, status=status, code=code, queued_s=queued_s)
    record.attempts = [AttemptRecord("k", "a", 0.0, outcome) for outcome in outcomes]
    return record


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (served("ok"), []),
        (served("wait", "ok"), ["rate_limit"]),
        (served("slow_down", "wait", "ok"), ["rate_limit"]),
        (served("money", "wait", "ok"), ["money"]),
        (served("dead", "ok"), ["key"]),
        (served("network", "ok"), ["network"]),
        (served("service", "ok"), ["server"]),
        (served("ok", queued_s=0.2), ["queued"]),
        (served("wait", "ok", queued_s=0.2), ["queued", "rate_limit"]),
        (served("wait", "wait", status=429), []),  # it was not served
        (served("wait", code="rate_limit_exceeded", status=429, queued_s=1.0), []),
        (served(status=429, code="queue_full", queued_s=1.0), []),
        (served("ok", "ok", "ok", status=101), []),  # the responses of a session
    ],
)
def test_what_a_request_was_saved_from(record, words):
    assert rescues_of(record) == words


async def test_rescued_requests_are_counted_by_what_had_failed_and_are_no_refusals(store):
    counter = SpendCounter(store, Observer(), now=lambda: NOW)
    for _ in range(3):
        counter.rescued(served("wait", "ok", queued_s=0.1))
    counter.rescued(served("money", "ok"))
    counter.refused(RequestRecord("qp_2", 0.0, client="app", code="queue_full"))
    assert await counter.flush()
    found = await savings(store, PriceList(CARDS), NOW)
    assert found.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert found.rescued == {"rate_limit": 3, "money": 1, "key": 0, "network": 0, "server": 0}
    assert found.queued == 3
    usage = await report(store, question("client", "month", None, None, zone="UTC", now=NOW), NOW)
    assert usage.total.refusals == {"queue_full": 1}


async def test_a_month_ends_with_the_next(store):
    counter = SpendCounter(store, Observer(), now=lambda: NOW - timedelta(days=20))
    counter.rescued(served("wait", "ok"))
    assert await counter.flush()
    assert sum((await savings(store, PriceList(CARDS), NOW)).rescued.values()) == 0
    assert (await savings(store, PriceList(CARDS), NOW - timedelta(days=20))).rescued["rate_limit"] == 1


async def test_cached_tokens_cost_less_at_todays_prices(store):
    entries = [
        Entry("a", "k", "gpt-5", "app", "exact", 1, prompt=3_000_000, cached=2_000_000),
        Entry("a", "k", "gpt-5", "app", "exact", 1, prompt=1_000_000, cached=1_000_000, tier="priority"),
        Entry("a", "k", "plain", "app", "exact", 1, prompt=1_000_000, cached=500_000),  # without a discount
        Entry("a", "k", "unknown", "app", "exact", 1, prompt=1_000_000, cached=500_000),
    ]
    await store.add(entries, at=NOW)
    found = await savings(store, PriceList(CARDS), NOW)
    assert found.cached_tokens == 4_000_000
    # 2 million x 1.125 USD, and 1 million x 2.25 USD
    assert found.cached_pico == 4_500_000_000_000
