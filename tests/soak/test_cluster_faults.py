"""A Cluster whose master hangs, or whose slot moves, under two replicas' reservations: nothing is sold twice.

An account of 60,000 requests a minute: 1,000 a second, 58,800 at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from quotapool.domain.quantities import Cost, Limits
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Granted
from quotapool.store.store import StoreError

from tests.fakes.cluster import SlotMove, cluster
from tests.fakes.connect import connect
from tests.fakes.store import StoreLog, candidate, granted, ledger_on

LIMITS = Limits(rpm=60_000, tpm=1_000_000_000)
A = candidate("a", LIMITS)
KEY = "qp:{test}"


class Replicas:
    """Two ledgers, each asking for 50 requests twenty times a second: twice what the account gains."""

    def __init__(self, ledgers: list[Ledger]) -> None:
        self.ledgers = ledgers
        self.granted: list[tuple[float, bool]] = []  # (when, without the store)
        self.errors: list[str] = []
        self._tasks = [asyncio.create_task(self._ask(ledger)) for ledger in ledgers]

    async def _ask(self, ledger: Ledger) -> None:
        while True:
            try:
                answer = await ledger.reserve("gpt-4o", Cost(50), [A])
            except StoreError as error:
                self.errors.append(str(error))
            else:
                if isinstance(answer, Granted):
                    self.granted.append((time.monotonic(), answer.local))
                    ledger.settle(answer)
            await asyncio.sleep(0.05)

    def since(self, moment: float) -> list[bool]:
        return [local for when, local in self.granted if when > moment]

    async def shared_again(self, within_s: float) -> float:
        """Seconds until both have been served by the store alone for two seconds."""
        started = time.monotonic()
        async with asyncio.timeout(within_s):
            while True:
                moment = time.monotonic()
                await asyncio.sleep(2)
                served = self.since(moment)
                if served and not any(served) and not any(ledger.away for ledger in self.ledgers):
                    return moment - started

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[tuple[dict, Replicas]]:
    async with cluster(tmp_path, node_timeout_s=0.5) as nodes:
        stores = [connect(f"redis+cluster://127.0.0.1:{port}") for port in list(nodes)[:2]]
        ledgers = [ledger_on(store, patience_s=1.0, serve_alone=True, observer=StoreLog()) for store in stores]
        await ledgers[0].registry.begin_epoch(reseeded=False)
        for ledger in ledgers:
            await ledger.heartbeat()
        await ledgers[0].heartbeat()
        await granted(ledgers[0], "gpt-4o", Cost(58_000), [A])
        replicas = Replicas(ledgers)
        await replicas.shared_again(20)
        yield nodes, replicas
        await replicas.stop()
        for store in stores:
            await store.close()


def sold(replicas: Replicas, since: float) -> float:
    """Requests a second; the account gains 1,000 of them."""
    return 50 * len(replicas.since(since)) / (time.monotonic() - since)


async def test_a_master_that_hangs_is_left_for_its_replica(running):
    nodes, replicas = running
    holder = replicas.ledgers[0].store.client.get_node_from_key(KEY).port
    await asyncio.sleep(5)
    began = time.monotonic()
    os.kill(nodes[holder].pid, signal.SIGSTOP)
    back_s = await replicas.shared_again(30)
    # The old master wakes up as a replica, and is no trouble
    os.kill(nodes[holder].pid, signal.SIGCONT)
    await asyncio.sleep(5)
    print(f"hung master: back after {back_s:.1f} s, {sold(replicas, began):.0f} requests a second")
    assert not any(replicas.since(time.monotonic() - 3))
    assert replicas.errors == []
    assert 700 < sold(replicas, began) < 1_050


async def test_a_slot_that_moves_is_followed(running):
    nodes, replicas = running
    client = replicas.ledgers[0].store.client
    began = time.monotonic()
    move = SlotMove(nodes, KEY)
    move.begin()
    while move.move_keys(100):
        pass
    move.end()
    back_s = await replicas.shared_again(20)
    await asyncio.sleep(10)
    print(f"slot moved: back after {back_s:.1f} s, {sold(replicas, began):.0f} requests a second")
    assert client.get_node_from_key(KEY).port == move.target_port
    assert replicas.errors == []
    assert sold(replicas, began) < 1_050
