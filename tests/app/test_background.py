"""Background tasks go on when one of them fails, and stop together."""

from __future__ import annotations

import asyncio

from quotapool.app.background import BackgroundTasks


async def test_a_task_that_fails_is_restarted_and_the_others_go_on():
    tasks, rounds, other = BackgroundTasks(pause_s=0.0), 0, asyncio.Event()
    third = asyncio.Event()

    async def fails() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            third.set()
        raise RuntimeError("a check that failed")

    async def goes_on() -> None:
        other.set()
        await asyncio.Event().wait()

    tasks.start("fails", fails)
    tasks.start("goes on", goes_on)
    async with asyncio.timeout(30):
        await third.wait()
        await other.wait()
    await tasks.stop()
    seen = rounds
    await asyncio.sleep(0)
    assert rounds == seen


async def test_a_task_that_returns_is_over():
    tasks, rounds = BackgroundTasks(pause_s=0.0), 0

    async def once() -> None:
        nonlocal rounds
        rounds += 1

    tasks.start("once", once)
    for _ in range(5):
        await asyncio.sleep(0)
    await tasks.stop()
    assert rounds == 1


async def test_a_task_whose_library_swallows_a_cancellation_is_stopped_anyway(monkeypatch):
    monkeypatch.setattr("quotapool.app.background._CANCEL_AGAIN_S", 0.0)
    tasks, swallowed = BackgroundTasks(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    tasks.start("stubborn", stubborn)
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await tasks.stop()
    assert swallowed == 3
