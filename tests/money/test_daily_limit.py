"""What workers do with the credit control's message: which accounts come first, and what the daily limit refuses."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from quotapool.domain.access import Use
from quotapool.domain.pool import Key
from quotapool.openai.refusal import Refusal
from quotapool.pool.roster import Roster
from quotapool.request import daily_limit as module
from quotapool.request.daily_limit import DailyLimit
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.heads import text

NOW = 1_000_000.0
KEYS = [Key(name, name, f"fp-{name}") for name in ("hurried", "calm")]


@pytest.fixture
async def roster(valkey_url: str):
    store = connect(valkey_url)
    settings = Settings.model_validate({"accounts": {"calm": {"weight": 0.5}}})
    yield Roster(settings, KEYS)
    await store.close()


@pytest.fixture
def day(monkeypatch) -> DailyLimit:
    """A spent day that has 7,200.4 seconds left."""
    monkeypatch.setattr(module.time, "time", lambda: NOW)
    spent = DailyLimit()
    spent.spent_until = NOW + 7200.4
    return spent


def first_choices(roster: Roster) -> Counter[str]:
    rng = random.Random(7)
    pool = roster.pool
    return Counter(pool.key_at(pool.pick("m", Use("m"), now=0.0, rng=rng)[0]).account for _ in range(200))


async def test_an_account_whose_credit_would_expire_comes_first_as_long_as_it_would(roster):
    roster.hurry({"hurried": 4.0})
    assert first_choices(roster) == {"hurried": 200}
    assert roster.pool.weight_of("hurried") == 4.0
    roster.hurry({"calm": 6.0})
    assert [roster.pool.weight_of(name) for name in ("hurried", "calm")] == [1.0, 3.0]
    roster.hurry({})
    assert [roster.pool.weight_of(name) for name in ("hurried", "calm")] == [1.0, 0.5]


async def test_urgency_outlives_a_reload_and_unknown_accounts_are_ignored(roster):
    roster.hurry({"hurried": 4.0, "nobody": 2.0})
    roster.reload(roster.prepare(Settings(), KEYS))
    assert [roster.pool.weight_of(name) for name in ("hurried", "calm")] == [4.0, 1.0]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses?x=/cancel"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/cancel/images"),
    ],
)
def test_a_spent_day_refuses_what_may_cost_money_until_it_is_over(method, target, day):
    with pytest.raises(Refusal) as refused:
        day.check(method, target)
    assert refused.value.status == 429
    assert b'"code":"pool_daily_limit_reached"' in refused.value.body()
    headers = dict(text(refused.value.headers()))
    assert (headers["retry-after"], headers["x-should-retry"]) == ("7201", "false")
    day.spent_until = NOW  # it is over: nothing is raised
    day.check(method, target)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/batches/batch_1/cancel?x=1"),
    ],
)
def test_a_spent_day_lets_looking_deleting_and_cancelling_go_on(method, target, day):
    day.check(method, target)
