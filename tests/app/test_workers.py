"""A worker that hangs is noticed by its missing heartbeats, and killed; one that is only slow is not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest
from quotapool.app.worker_pipe import Alive, Channel, Configure, InQueues, Ready
from quotapool.app.workers import Workers
from quotapool.domain.waiting import Waiting

pytestmark = pytest.mark.usefixtures("virtual_time")


class Process:
    """A worker process, as far as its supervisor looks at it."""

    returncode: int | None = None
    killed = False

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
async def worker():
    """(workers, the process of the only one, the worker's end of its pipe)."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    workers = Workers(1, ours, Path("/nowhere"), Configure(msgspec.Raw(b"{}"), ""), str)
    (slot,) = workers._slots
    process = slot._process = Process()
    tasks = asyncio.create_task(slot._talk(await Channel.over(ours))), asyncio.create_task(slot._watch(process))
    yield workers, process, await Channel.over(theirs)
    for task in tasks:
        task.cancel()


async def beats(channel: Channel, seconds: float) -> None:
    for _ in range(int(seconds * 2)):
        await channel.send(Alive())
        await asyncio.sleep(0.5)


async def test_what_waits_in_a_worker_is_what_it_told_last(worker):
    workers, _, channel = worker
    await channel.send(InQueues([Waiting("gpt", "tpm", "app", "", 3, 1.5)]))
    await beats(channel, 1)
    assert workers.waiting == [Waiting("gpt", "tpm", "app", "", 3, 1.5)]
    await channel.send(InQueues([]))
    await beats(channel, 1)
    assert workers.waiting == []


async def test_a_worker_counts_from_when_it_is_ready(worker):
    workers, _, channel = worker
    await beats(channel, 5)
    assert (workers.alive, workers.all_hang) == (0, False)
    await channel.send(Ready())
    await beats(channel, 5)
    assert (workers.alive, workers.all_hang) == (1, False)


async def test_a_worker_that_hangs_does_not_count_after_3_s_and_is_killed_after_20(worker):
    workers, process, channel = worker
    await channel.send(Ready())
    await asyncio.sleep(2.5)
    assert workers.alive == 1
    await asyncio.sleep(1.5)
    assert (workers.alive, workers.all_hang) == (0, True)
    await asyncio.sleep(15)
    assert not process.killed
    await asyncio.sleep(2)
    assert process.killed


async def test_a_worker_that_goes_on_in_time_is_not_killed(worker):
    workers, process, channel = worker
    await channel.send(Ready())
    await asyncio.sleep(18)
    await beats(channel, 60)
    assert (workers.alive, process.killed) == (1, False)


async def test_a_worker_that_hangs_before_it_was_ready_is_killed_too(worker):
    _, process, channel = worker
    await beats(channel, 90)
    assert not process.killed
    await asyncio.sleep(61)
    assert process.killed


async def test_a_supervisor_that_was_stopped_itself_blames_nobody(worker, virtual_time):
    workers, process, channel = worker
    await channel.send(Ready())
    await asyncio.sleep(1)
    virtual_time.advance(600)  # all timers are due at once then
    await asyncio.sleep(0.6)
    assert (workers.alive, process.killed) == (1, False)
