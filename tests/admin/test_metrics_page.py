"""The page /metrics of a large pool: quick, in nobody's way, the emptiest budgets first, as detailed as wanted."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from quotapool.admin.metrics_page import MetricsPage
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Observed
from quotapool.ledger.messages import bucket_key
from quotapool.observe.shared_values import prepare
from quotapool.operators import overview as overview_module
from quotapool.operators.overview import Overview
from quotapool.settings import Settings

from tests.fakes.calls import calls_of
from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on, pack


@pytest.fixture
async def ledger(valkey_url):
    store = connect(valkey_url)
    made = ledger_on(store)
    await made.registry.begin_epoch(reseeded=False)
    yield made
    await made.flush()
    await store.close()


def settings(accounts: int, **metrics: str) -> Settings:
    keys = [{"id": f"key-{n}", "account": f"a-{n:05}", "secret": f"sk-proj-secret-{n}"} for n in range(accounts)]
    return Settings.model_validate({"keys": keys, "metrics": metrics})


def page_of(overview: Overview, directory) -> MetricsPage:
    prepare(directory)
    return MetricsPage(overview.metrics, overview.refresh_metrics, directory)


async def samples(page: MetricsPage, name: str) -> dict[tuple[str, ...], float]:
    """Label values, in the order of the labels' names -> value."""
    families = text_string_to_metric_families((await page.body()).decode())
    found = [sample for family in families for sample in family.samples if sample.name == f"quotapool_{name}"]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


async def use(ledger: Ledger, account: str, group: str, remaining: float) -> None:
    """One request of the account, whose answer names a limit of 1,000 requests per minute and what is left of it."""
    grant = await granted(ledger, group, Cost(1, 10), [candidate(account)])
    ledger.settle(grant, observed=[Observed(Dimension.RPM, 1_000, remaining)])
    await ledger.flush()


async def fill(ledger: Ledger, accounts: int, groups: int) -> None:
    """The same bucket for each account and group."""
    await use(ledger, "a-00000", "g-0", 900)
    client = ledger.store.client
    raw = await client.get(bucket_key(ledger.prefix, "a-00000", "g-0"))
    for n in range(accounts):
        names = [(f"a-{n:05}", f"g-{m}") for m in range(groups)]
        await client.mset({bucket_key(ledger.prefix, account, group): raw for account, group in names})
        await client.sadd(f"{ledger.prefix}:buckets", *(pack(name) for name in names))


async def test_beyond_the_bound_the_emptiest_budgets_are_shown_not_the_first_by_name(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(overview_module, "_MOST_BUCKETS", 2)
    for account, left in {"a-00000": 900, "a-00001": 500, "a-00002": 10, "a-00003": 100}.items():
        await use(ledger, account, "gpt-4o", left)
    shown = await samples(page_of(Overview(settings(4), ledger), tmp_path), "bucket_limit")
    assert {account for account, dimension, _ in shown if dimension == "rpm"} == {"", "a-00002", "a-00003"}


async def test_an_account_that_cools_down_is_shown_before_any_other(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(overview_module, "_MOST_BUCKETS", 1)
    await use(ledger, "a-00000", "gpt-4o", 1)
    await use(ledger, "a-00001", "gpt-4o", 999)
    ledger.settle(await granted(ledger, "gpt-4o", Cost(1, 10), [candidate("a-00001")]), cool_s=30)
    await ledger.flush()
    shown = await samples(page_of(Overview(settings(2), ledger), tmp_path), "cooldown_seconds")
    assert shown["a-00001", "gpt-4o"] == pytest.approx(30, abs=2)
    assert shown["", "gpt-4o"] == 0


async def test_budgets_that_are_not_shown_are_added_up_so_that_the_pools_sums_stay_right(ledger, tmp_path, monkeypatch):
    # Given four accounts of 1,000 requests per minute
    for account, left in {"a-00000": 900, "a-00001": 500, "a-00002": 10, "a-00003": 100}.items():
        await use(ledger, account, "gpt-4o", left)
    for most in (0, 2, 5_000):
        monkeypatch.setattr(overview_module, "_MOST_BUCKETS", most)
        page = page_of(Overview(settings(4), ledger), tmp_path)
        limits = await samples(page, "bucket_limit")
        assert sum(limit for (_, dimension, _), limit in limits.items() if dimension == "rpm") == 4_000
        assert len([1 for _, dimension, _ in limits if dimension == "rpm"]) == min(4, most + 1)


async def test_the_page_of_a_thousand_keys_and_twenty_models_leaves_the_loop_to_others(ledger, tmp_path):
    await fill(ledger, 1_000, 20)
    page = page_of(Overview(settings(1_000), ledger), tmp_path)
    bodies: list[bytes] = []

    async def ask() -> None:
        bodies.append(await page.body())

    calls = await calls_of(ask)
    assert bodies[0].count(b"quotapool_bucket_level{") >= 5_000
    # Given 150 calls for a budget, half a second of work, and 40,000 in a turn, where this was measured
    assert calls.number < 300 * 20_000
    assert calls.in_a_turn < 80_000


async def test_all_who_ask_while_a_page_is_made_get_that_page(ledger, tmp_path):
    made = 0

    async def refresh() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)

    page = MetricsPage(Overview(settings(1), ledger).metrics, refresh, tmp_path)
    bodies = await asyncio.gather(*(page.body() for _ in range(20)))
    assert (made, len(set(bodies))) == (1, 1)
    await page.body()  # for as long as it took to make
    assert made == 1
    await asyncio.sleep(0.2)
    await page.body()
    assert made == 2


async def test_one_who_leaves_does_not_take_the_page_from_the_others(ledger, tmp_path):
    page = page_of(Overview(settings(1), ledger), tmp_path)
    leaving, staying = asyncio.create_task(page.body()), asyncio.create_task(page.body())
    await asyncio.sleep(0)
    leaving.cancel()
    assert b"quotapool_keys" in await staying


async def test_a_page_that_failed_is_made_again(ledger, tmp_path):
    failures = [RuntimeError("once")]

    async def refresh() -> None:
        if failures:
            raise failures.pop()

    page = MetricsPage(Overview(settings(1), ledger).metrics, refresh, tmp_path)
    with pytest.raises(RuntimeError):
        await page.body()
    assert b"quotapool_keys" in await page.body()


async def out_of_service(ledger: Ledger, key: str, fingerprint: str) -> None:
    record = Record(State.DISABLED, "operator", 0.0, by=OPERATOR, fingerprint=fingerprint)
    await ledger.registry.change_state(Subject.of_key(key), record, fingerprint=fingerprint)


@pytest.mark.parametrize(("detail", "rows"), [("key", 3 * len(State)), ("account", 1), ("pool", 1)])
async def test_below_the_detail_of_keys_only_those_that_cannot_serve_have_a_state(ledger, tmp_path, detail, rows):
    overview = Overview(settings(3, detail=detail), ledger)
    await out_of_service(ledger, "key-1", overview.roster.pool.keys["key-1"].fingerprint)
    page = page_of(overview, tmp_path)
    shown = await samples(page, "key_state")
    assert len(shown) == rows
    assert shown["a-00001", "key-1", "disabled"] == 1
    assert await samples(page, "keys") == {
        ("active",): 2, ("disabled",): 1, ("suspect",): 0, ("quarantined",): 0, ("draining",): 0, ("removed",): 0
    }  # fmt: skip


async def test_with_the_detail_of_the_pool_no_account_has_budgets_of_its_own(ledger, tmp_path):
    for account in ("a-00000", "a-00001"):
        await use(ledger, account, "gpt-4o", 900)
        await use(ledger, account, "o3", 900)
    limits = await samples(page_of(Overview(settings(2, detail="pool"), ledger), tmp_path), "bucket_limit")
    assert {key: limit for key, limit in limits.items() if key[1] == "rpm"} == {
        ("", "rpm", "gpt-4o"): 2_000,
        ("", "rpm", "o3"): 2_000,
    }
