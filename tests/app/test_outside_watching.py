"""From answers to the announcement: the real ledger and store in virtual time, the simulator's limiter as upstream, and
somebody who uses one of the accounts directly."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime

import pytest
from quotapool.alerts.rules import of_event
from quotapool.app.outside_watching import OutsideWatching
from quotapool.domain.alert import AlertKind, Severity
from quotapool.domain.outside_use import SLICE_S
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.ledger.grants import Observed, candidate_of
from quotapool.money.spend_store import Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.observe.events import Events
from quotapool.operators.overview import Overview
from quotapool.outside.outside_store import OutsideStore
from quotapool.outside.sender import OutsideSender
from quotapool.settings import Settings
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits as UpstreamLimits
from quotapool.store.store import connect

from tests.fakes.store import granted, ledger_on

pytestmark = pytest.mark.usefixtures("virtual_time")
GROUP = "gpt-5"
RPM = 120
PICO = 10**12


class World:
    """Two accounts with a key each, a worker's ledger, and a supervisor that watches."""

    def __init__(self, url: str, **options) -> None:
        self.rng = random.Random(4)
        self.store = connect(url, timeout_s=2.0)
        self.ledger = ledger_on(self.store)
        self.outside = OutsideStore(self.store, "test")
        self.sender = OutsideSender(self.ledger, self.outside, enabled=True)
        keys = [{"id": f"key-{name}", "account": name, "secret": f"sk-proj-of-{name}"} for name in ("acme", "other")]
        settings = Settings.model_validate({"pool": "test", "keys": keys, "outside_use": options})
        self.overview = Overview(settings, ledger_on(self.store))
        self.watching = OutsideWatching(self.overview)
        self.upstream = {name: Budget(UpstreamLimits(rpm=RPM, tpm=0), time.monotonic()) for name in ("acme", "other")}

    async def open(self) -> None:
        # A store that has been there for a while: what a new one has to wait for is in tests/outside/test_tallies.py.
        await self.store.client.set("qp:{test}:epoch", "f:1")
        await self.overview.start()
        await self.ledger.heartbeat()
        await self.sender.flush()
        await self.watching.tick()

    async def close(self) -> None:
        await self.ledger.flush()
        await self.watching.stop()
        await self.store.close()

    async def ask(self, account: str) -> None:
        """A request of ours."""
        pool = self.overview.roster.pool
        if pool.state_of(pool.keys[f"key-{account}"]) is not State.ACTIVE:
            return
        candidate = candidate_of(
            account=account,
            key=f"key-{account}",
            account_fingerprint=pool.accounts[account].fingerprint,
            key_fingerprint=pool.keys[f"key-{account}"].fingerprint,
            written=(-1, -1, -1, -1, -1),
        )
        grant = await granted(self.ledger, GROUP, Cost(1, 100), [candidate])
        now = time.monotonic()
        assert self.upstream[account].admit(100, now) is None
        (gauge,) = self.upstream[account].gauges(now)
        self.ledger.settle(grant, observed=[Observed(Dimension.RPM, gauge.limit, gauge.remaining)])

    async def run(self, seconds: float, *, ours: float = 60.0, others: float = 0.0) -> None:
        """`ours`, on each account, and `others`, on acme: requests a minute."""
        due: list[tuple[float, str]] = []
        for account, rate in (("acme", ours), ("other", ours), ("", others)):
            at = 0.0
            while rate and (at := at + self.rng.expovariate(rate / 60)) < seconds:
                due.append((at, account))
        began, slices = time.monotonic(), 1
        for at, account in sorted(due):
            while at > slices * SLICE_S:
                await self.judge(began + slices * SLICE_S)
                slices += 1
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            if account:
                await self.ask(account)
            else:
                self.upstream["acme"].admit(100, time.monotonic())
        await self.judge(began + seconds)

    async def judge(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        await self.ledger.heartbeat()
        await self.ledger.flush()
        await self.sender.flush()
        await self.watching.tick()

    async def events(self) -> list[dict[str, str]]:
        found = await Events(self.store, "test").latest(100, lambda data: data.get("kind") == "outside_use")
        return [{**event.data, "at": event.at} for event in reversed(found)]


@pytest.fixture
async def world_of(valkey_url):
    opened: list[World] = []

    async def open_(**options) -> World:
        world = World(valkey_url, **options)
        opened.append(world)
        await world.open()
        return world

    yield open_
    for world in opened:
        await world.close()


async def test_who_uses_an_account_is_told_once_with_all_that_is_known_and_when_it_is_over(world_of):
    world = await world_of()
    # Given a request of ours that costs a cent
    batch = SpendBatch()
    now = await world.overview.ledger.registry.time()
    batch.add(
        Entry("acme", "key-acme", GROUP, "app", "exact", PICO // 10, requests=10), datetime.fromtimestamp(now, UTC)
    )
    await SpendStore(world.store, "test").send(batch, new_batch_id())
    await world.run(120)
    assert await world.events() == []
    # when others make 24 requests a minute, a fifth of the limit, while ours use half of it
    await world.run(300, others=24)
    # then they are named, and nobody else is.
    (event,) = await world.events()
    assert (event["field"], event["model"], event["key"], event["phase"]) == ("a/acme", GROUP, "key-acme", "begun")
    assert float(event["since"]) == pytest.approx(now + 120, abs=60)
    (name,) = await world.outside.named()
    assert name == ("acme", GROUP)
    found = (await world.outside.named())[name]
    assert found.requests_per_minute == pytest.approx(24, rel=0.4)
    assert found.usd_per_hour == pytest.approx(found.requests_per_minute * 60 * 0.01, rel=0.01)
    # ... as an alert, in metrics, and for each account
    alert = of_event(event)
    assert (alert.kind, alert.subject, alert.severity) == (AlertKind.OUTSIDE_USE, "key key-acme", Severity.WARNING)
    await world.overview.refresh_metrics()
    shown = "".join(world.overview.metrics.text())
    assert f'quotapool_outside_use_requests_per_minute{{account="acme",model="{GROUP}"}}' in shown
    # What lasts is not told again; its end is.
    await world.run(60, others=24)
    assert len(await world.events()) == 1
    await world.run(1_200)
    (_, over) = await world.events()
    assert (over["field"], over["phase"], of_event(over).severity) == ("a/acme", "over", Severity.INFO)
    assert await world.outside.named() == {}
    await world.overview.refresh_metrics()
    assert "outside_use_requests_per_minute{" not in "".join(world.overview.metrics.text())


async def test_another_replica_goes_on_and_tells_nothing_twice(world_of):
    world = await world_of()
    await world.run(120)
    await world.run(180, others=24)
    assert len(await world.events()) == 1
    await world.watching.stop()
    world.watching = OutsideWatching(world.overview)
    await world.watching.tick()
    await world.run(120, others=24)
    assert len(await world.events()) == 1
    assert list(await world.outside.named()) == [("acme", GROUP)]


async def test_an_account_that_is_shared_on_purpose_is_not_named(world_of):
    world = await world_of(accounts_shared=["acme"])
    await world.run(60)
    await world.run(300, others=24)
    assert await world.events() == []


class TestDraining:
    async def test_by_default_nothing_is_drained(self, world_of):
        world = await world_of()
        await world.run(60)
        await world.run(900, others=24)
        assert world.overview.roster.pool.state_of(world.overview.roster.pool.keys["key-acme"]) is State.ACTIVE

    async def test_after_its_time_the_keys_get_no_new_requests_and_nobody_but_an_operator_changes_that(self, world_of):
        world = await world_of(drain=True, drain_after=300)
        pool = world.overview.roster.pool
        await world.run(60)
        await world.run(240, others=24)
        assert await world.outside.named()
        assert pool.state_of(pool.keys["key-acme"]) is State.ACTIVE
        await world.run(360, others=24)
        assert pool.state_of(pool.keys["key-acme"]) is State.DRAINING
        record = pool.records[Subject.of_key("key-acme")]
        assert (record.reason, record.by) == ("outside_use", "observed")
        assert "account acme is used by others too" in record.message
        # It stays so when the others have left, and when nobody can see it any more.
        await world.run(4_000, ours=12)
        await world.overview.follow()
        assert pool.state_of(pool.keys["key-acme"]) is State.DRAINING
        assert (await world.events())[-1]["phase"] == "over"

    async def test_the_last_account_that_can_serve_is_never_drained(self, world_of):
        world = await world_of(drain=True, drain_after=60)
        pool = world.overview.roster.pool
        # Given another account that has never served the model
        ask = world.ask

        async def only_acme(account: str) -> None:
            if account == "acme":
                await ask(account)

        world.ask = only_acme
        await world.run(60)
        await world.run(600, others=24)
        assert await world.outside.named()
        assert pool.state_of(pool.keys["key-acme"]) is State.ACTIVE
