"""From answers to the announcement: the real ledger and store in virtual time, the simulator's limiter as upstream, and
somebody who uses one of the accounts directly."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from quotapool.app.outside_watching import OutsideWatching
from quotapool.domain.outside_use import SLICE_S
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.states import State
from quotapool.ledger.grants import Granted, Observed, candidate_of
from quotapool.observe.events import Events
from quotapool.operators.overview import Overview
from quotapool.outside.sender import OutsideSender
from quotapool.outside.shared_tallies import SharedTallies
from quotapool.settings import Settings
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits as UpstreamLimits

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

pytestmark = pytest.mark.usefixtures("virtual_time")
GROUP = "gpt-5"
RPM = 120


class World:
    """Two accounts with a key each, a worker's ledger, and a supervisor that watches."""

    def __init__(self, url: str, **options) -> None:
        self.rng = random.Random(4)
        self.store = connect(url)
        self.ledger = ledger_on(self.store)
        self.outside = SharedTallies(self.store, "test")
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
        candidate = candidate_of(
            account=account,
            key=f"key-{account}",
            account_fingerprint=pool.accounts[account].fingerprint,
            key_fingerprint=pool.keys[f"key-{account}"].fingerprint,
            written=(-1, -1, -1, -1, -1),
        )
        grant = await self.ledger.reserve(GROUP, Cost(1, 100), [candidate])
        if not isinstance(grant, Granted):
            return  # its account is out
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


async def test_who_uses_an_account_is_named_by_what_answers_show_and_it_ends_when_they_do(world_of):
    world = await world_of()
    await world.run(120)
    assert await world.events() == []
    began = await world.ledger.registry.time()
    # when others make 24 requests a minute, a fifth of the limit, while ours use half of it
    await world.run(300, others=24)
    # then they are named, and the other account is not.
    (event,) = await world.events()
    assert (event["field"], event["to"]) == ("a/acme", "outside_use")
    (found,) = await world.overview.outside.named()
    assert (found.account, found.group, found.key) == ("acme", GROUP, "key-acme")
    assert found.since == pytest.approx(began, abs=60)
    assert found.requests_per_minute == pytest.approx(24, rel=0.4)
    # What lasts is not told again; its end is.
    await world.run(60, others=24)
    assert len(await world.events()) == 1
    await world.run(1_200)
    assert [event["to"] for event in await world.events()] == ["outside_use", "none"]
    assert await world.overview.outside.named() == []


async def test_draining_ends_our_own_use_and_nothing_but_an_operator_brings_it_back(world_of):
    world = await world_of(drain_after=300)
    pool = world.overview.roster.pool
    await world.run(60)
    await world.run(240, others=24)
    assert await world.overview.outside.named()
    assert pool.state_of(pool.keys["key-acme"]) is State.ACTIVE
    await world.run(360, others=24)
    await world.overview.follow()
    assert pool.state_of(pool.keys["key-acme"]) is State.DRAINING
    # It stays so when the others have left, and when nobody can see it any more, an hour after our last request.
    await world.run(4_000, ours=12)
    await world.overview.follow()
    assert pool.state_of(pool.keys["key-acme"]) is State.DRAINING
    assert [event["to"] for event in await world.events()][-1] == "none"
    assert await world.overview.outside.named() == []


async def test_while_a_replica_does_not_reach_the_store_nobody_is_named(world_of):
    world = await world_of()
    # Given a second process, which stops announcing itself and goes on with its share
    other = ledger_on(world.store)
    await other.heartbeat()
    await world.judge(time.monotonic())
    await world.run(20)
    await world.run(300, others=24)
    assert await world.events() == []
