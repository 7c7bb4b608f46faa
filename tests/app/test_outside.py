"""Outside use that is named reaches operators once, whichever replica judges; and takes accounts out, within bounds."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from quotapool.alerts import rules
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.alerts.watch import AlertWatch
from quotapool.app.outside import OutsideReports
from quotapool.domain.outside import OutsideUse
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.waited_for import WaitedFor
from quotapool.money.spend_store import Entry
from quotapool.observe.events import Events
from quotapool.observe.kept_request import KeptRequest
from quotapool.reports.evidence import explanation_of
from quotapool.settings import Settings
from structlog.testing import capture_logs

from tests.fakes.supervised import Pool

NOW = 1_800_000_000.0
USE = OutsideUse("a-00000", "gpt-4o", NOW - 300, 40.0, 12_000.0)
DRAINS = {"outside_use": {"drain_after": "10m"}}


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


async def told(pool: Pool, kind: str = "outside_use") -> list[dict[str, str]]:
    found = await Events(pool.store, "test").latest(100, lambda data: data.get("kind") == kind)
    return [event.data for event in reversed(found)]


def state_of(pool: Pool, account: str = "a-00000") -> Record | None:
    return pool.overview.roster.pool.records.get(Subject.of_account(account))


async def test_begin_and_end_are_one_event_each_whichever_replica_judges(open_pool_of):
    pools = [await open_pool_of(2), await open_pool_of(2)]
    both = [OutsideReports(pool.overview) for pool in pools]
    with capture_logs() as logs:
        await asyncio.gather(*(reports.take([USE], NOW) for reports in both))
        for n in range(1, 5):
            await both[n % 2].take([replace(USE, requests_per_minute=40.0 + n)], NOW + 10 * n)
        await asyncio.gather(*(reports.take([], NOW + 60) for reports in both))
        await both[0].take([], NOW + 70)
    begin, end = await told(pools[0])
    assert (begin["field"], begin["from"], begin["to"], begin["reason"]) == (
        *("a/a-00000", "none", "outside_use", "gpt-4o"),
    )
    assert begin["message"] == (
        "about 40 requests and 12,000 tokens a minute of gpt-4o, since 2027-01-15 07:55 UTC, which nobody asked this "
        "pool for; the account's only key is key-0"
    )
    assert (end["from"], end["to"], end["requests_per_minute"]) == ("outside_use", "none", "44.0")
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert logs[0]["key"] == "key-0"


async def test_what_is_named_can_be_read_by_all_until_nobody_writes_it(open_pool_of):
    writer, reader = await open_pool_of(1), await open_pool_of(1)
    await OutsideReports(writer.overview).take([USE], NOW)
    (one,) = await reader.overview.outside.named()
    assert (one.account, one.key, one.named, one.usd_per_hour) == ("a-00000", "key-0", NOW, None)
    # A quarter of an hour after the last writing the store forgets it.
    assert 890 < await writer.store.client.ttl(writer.overview.outside.key) <= 900


async def test_use_that_lasts_for_hours_ends_with_one_event_and_may_begin_again(open_pool_of):
    pool = await open_pool_of(1)
    reports = OutsideReports(pool.overview)
    await reports.take([USE], NOW)
    lock = "qp:{test}:told:outside_use:a-00000 gpt-4o"
    await pool.store.client.expire(lock, 5)  # as nearly an hour later
    await reports.take([USE], NOW + 600)
    assert await pool.store.client.ttl(lock) > 3_590
    await reports.take([], NOW + 610)
    await reports.take([replace(USE, since=NOW + 900)], NOW + 1_200)
    assert [event["to"] for event in await told(pool)] == ["outside_use", "none", "outside_use"]


async def test_a_judge_that_finds_nothing_in_the_store_does_not_tell_the_same_again(open_pool_of):
    pool = await open_pool_of(1)
    await OutsideReports(pool.overview).take([USE], NOW)
    await pool.store.client.delete(pool.overview.outside.key)  # nobody judged for a quarter of an hour
    await OutsideReports(pool.overview).take([USE], NOW + 1_000)
    assert len(await told(pool)) == 1


async def test_switched_off_it_ends_what_was_named(open_pool_of):
    pool, off = await open_pool_of(1), await open_pool_of(1, outside_use={"enabled": False})
    await OutsideReports(off.overview).take([USE], NOW)
    assert await told(off) == []
    await OutsideReports(pool.overview).take([USE], NOW)
    await OutsideReports(off.overview).take([USE], NOW + 10)
    assert [event["to"] for event in await told(pool)] == ["outside_use", "none"]
    assert await pool.overview.outside.named() == []


async def test_the_cost_is_that_of_the_pools_own_use_of_this_model(open_pool_of):
    pool = await open_pool_of(1)
    at = datetime.fromtimestamp(NOW, UTC)
    # $3 for 10 requests and 60,000 tokens of it, and of other models
    ours = [Entry("a-00000", "key-0", "gpt-4o", "app", "exact", 3 * 10**12, 10, prompt=50_000, completion=10_000)]
    ours.append(Entry("a-00000", "key-0", "gpt-5", "app", "exact", 500 * 10**12, 1, prompt=10))
    ours.append(Entry("a-00000", "key-0", "gpt-4o", "app", "unpriced", 0, 7))
    await pool.spend.add(ours, at=at)
    await OutsideReports(pool.overview).take([USE, replace(USE, group="new-model")], NOW)
    cost = {one.group: one.usd_per_hour for one in await pool.overview.outside.named()}
    # 12,000 tokens a minute cost $0.60, but 40 requests $12: the higher one, by the hour
    assert cost == {"gpt-4o": pytest.approx(720.0), "new-model": None}


# ---- draining


async def test_after_its_time_the_account_is_drained_and_nothing_brings_it_back_but_an_operator(open_pool_of):
    pool = await open_pool_of(2, **DRAINS)
    reports, registry = OutsideReports(pool.overview), pool.ledger.registry
    await reports.take([USE], NOW)
    await reports.take([USE], NOW + 599)
    assert state_of(pool) is None
    await reports.take([USE], NOW + 600)
    await pool.overview.follow()
    record = state_of(pool)
    assert record is not None
    assert (record.state, record.reason, record.by) == (State.DRAINING, "outside_use", "observed")
    account = pool.overview.roster.pool.accounts["a-00000"]
    assert account.usable == []
    (one,) = await pool.overview.outside.named()
    assert one.drained
    (event,) = await told(pool, "state")
    assert (event["field"], event["to"], event["reason"]) == ("a/a-00000", "draining", "outside_use")
    # It ends, since nobody can see it any more. An answer of a request under way says nothing about it.
    await reports.take([], NOW + 4_000)
    assert not await registry.change_state(Subject.of_account("a-00000"), None, fingerprint=account.fingerprint)
    low = Record(State.QUARANTINED, "insufficient_quota", 0.0, fingerprint=account.fingerprint)
    assert not await registry.change_state(Subject.of_account("a-00000"), low, fingerprint=account.fingerprint)
    await pool.operations.act("enable", "key-0")
    assert state_of(pool) is None


async def test_an_operators_word_is_not_undone_while_the_use_lasts(open_pool_of):
    pool = await open_pool_of(2, **DRAINS)
    reports = OutsideReports(pool.overview)
    for at in (NOW, NOW + 600):
        await reports.take([USE], at)
    await pool.operations.act("enable", "key-0")
    await OutsideReports(pool.overview).take([USE], NOW + 5_000)  # another replica has taken over
    await pool.overview.follow()
    assert state_of(pool) is None


async def test_the_last_account_is_never_drained_and_the_log_says_once_why(open_pool_of):
    pool = await open_pool_of(2, **DRAINS)
    out = Record(State.DISABLED, "operator", 0.0, by=OPERATOR)
    await pool.ledger.registry.change_state(Subject.of_key("key-1"), out, fingerprint="")
    reports = OutsideReports(pool.overview)
    with capture_logs() as logs:
        for n in range(4):
            await reports.take([USE], NOW + 600 * n)
    assert [line["why"] for line in logs if "why" in line] == ["no other account serves"]
    assert await told(pool, "state") != []  # the operator's own
    assert state_of(pool) is None


async def test_no_more_accounts_are_drained_than_max_removals(open_pool_of):
    pool = await open_pool_of(6, max_removals=2, **DRAINS)
    named = [replace(USE, account=f"a-{n:05}", since=NOW - n) for n in range(5)]
    for at in (NOW, NOW + 600, NOW + 610, NOW + 5_000):
        await OutsideReports(pool.overview).take(named, at)
    await pool.overview.follow()
    out = [name for name in pool.overview.roster.pool.accounts if state_of(pool, name)]
    assert out == ["a-00000", "a-00001"]


async def test_without_the_option_nothing_is_drained(open_pool_of):
    pool = await open_pool_of(2)
    reports = OutsideReports(pool.overview)
    for at in (NOW, NOW + 86_400):
        await reports.take([USE], at)
    await pool.overview.follow()
    assert state_of(pool) is None


# ---- alerts


async def test_alerts_of_begin_drain_and_end_are_raised_once(open_pool_of):
    pool = await open_pool_of(2, **DRAINS)
    target = {"url": "https://ops.example.com/hook", "kinds": ["outside_use"]}
    settings = Settings.model_validate({"pool": "test", "alerts": {"targets": [target]}})
    raised = []
    watches = [
        AlertWatch(settings, SharedAlertState(pool.store, "test", name), pool.overview.roster.pool, raised.append)
        for name in "ab"
    ]
    await SharedAlertState(pool.store, "test", "a").set_cursor()
    reports = OutsideReports(pool.overview)
    for named, at in (([USE], NOW), ([USE], NOW + 600), ([], NOW + 700), ([USE], NOW + 800)):
        await reports.take(named, at)
        for watch in watches:
            await watch.read_events()
    assert [(alert.kind, alert.subject, alert.severity) for alert in raised] == [
        ("outside_use", "account a-00000", "warning"),
        ("outside_use", "account a-00000", "critical"),
        ("outside_use", "account a-00000", "info"),
        ("outside_use", "account a-00000", "warning"),
    ]
    assert raised[0].text.startswith("Somebody else uses account a-00000: about 40 requests and 12,000 tokens a minute")
    assert raised[0].details["model"] == "gpt-4o"
    assert raised[0].details["requests_per_minute"] == "40.0"
    assert raised[1].text.startswith("account a-00000 was taken out of service, since somebody else uses it: about 40")


def test_an_operators_own_drain_raises_no_alert():
    event = {"kind": "state", "field": "a/acme", "from": "active", "to": "draining", "at": "1", "by": "operator"}
    assert rules.of_event({**event, "reason": "operator"}) is None
    assert rules.of_event({**event, "reason": "other", "by": "observed"}) is None


# ---- where it is shown


async def test_it_is_shown_by_now_by_keys_and_by_metrics_while_it_lasts(open_pool_of):
    pool = await open_pool_of(2)
    reports = OutsideReports(pool.overview)
    await reports.take([USE], NOW)
    now = await pool.now.read()
    (shown,) = now.outside_use
    assert (shown.account, shown.model, shown.requests_per_minute, shown.key) == ("a-00000", "gpt-4o", 40.0, "key-0")
    assert [row.ids for row in now.attention if row.code == "outside_use"] == [["a-00000"]]
    rows = {row["id"]: row["outside_use"] for row in await pool.operations.rows()}
    assert [row["model"] for row in rows["key-0"]] == ["gpt-4o"]
    assert rows["key-1"] == []
    sample = 'quotapool_outside_use_tokens_per_minute{account="a-00000",model="gpt-4o"} 12000.0'
    await pool.overview.refresh_metrics()
    assert sample in "".join(pool.overview.metrics.text())

    await reports.take([], NOW + 10)
    await pool.overview.refresh_metrics()
    assert "outside_use_tokens_per_minute{" not in "".join(pool.overview.metrics.text())
    now = await pool.again()
    assert now.outside_use == []
    assert "outside_use" not in {row.code for row in now.attention}


async def test_a_drained_account_is_one_thing_to_look_at_not_two(open_pool_of):
    pool = await open_pool_of(2, **DRAINS)
    for at in (NOW, NOW + 600):
        await OutsideReports(pool.overview).take([USE], at)
    rows = [row for row in (await pool.now.read()).attention if row.code == "outside_use"]
    assert [(row.ids, row.count, row.actions) for row in rows] == [(["a-00000"], 1, ["enable", "show_account"])]


def waiting_request(ended: float) -> KeptRequest:
    return KeptRequest(
        id="qp_1",
        at=ended - 3,
        client="app",
        endpoint="chat",
        model="gpt-4o",
        status=200,
        code="",
        rules=(),
        streamed=False,
        cut=False,
        source="upstream",
        attempts=(),
        waited_for=WaitedFor("gpt-4o", "rpm", "a-00000"),
        queued_us=2_000_000,
        first_byte_us=None,
        total_us=3_000_000,
        overhead_us=400,
        prompt=0,
        cached=0,
        completion=0,
        certainty="",
        pico=0,
    )


async def test_a_request_is_explained_by_what_was_named_then_also_when_it_is_over(open_pool_of):
    pool = await open_pool_of(2)
    now = time.time()
    reports = OutsideReports(pool.overview)
    await reports.take([replace(USE, since=now - 60)], now)

    async def others(request: KeptRequest) -> list[str]:
        return [row.account for row in (await explanation_of(request, pool.settings, pool.store)).outside_use]

    then, before = waiting_request(now - 30), waiting_request(now - 90)
    assert await others(then) == ["a-00000"]
    assert await others(before) == []
    await reports.take([], now + 10)
    assert await others(then) == ["a-00000"]
    assert await others(before) == []
    assert await others(waiting_request(now + 3_600)) == []
