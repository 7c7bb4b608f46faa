"""What the supervisor looks after goes on when one look fails, and ends with it."""

from __future__ import annotations

import asyncio

from quotapool.app.background import BackgroundTasks


async def test_a_duty_that_fails_begins_anew_and_the_others_go_on():
    duties, rounds, other = BackgroundTasks(pause_s=0.0), 0, asyncio.Event()
    third = asyncio.Event()

    async def fails() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            third.set()
        raise RuntimeError("a look that failed")

    async def goes_on() -> None:
        other.set()
        await asyncio.Event().wait()

    duties.begin("fails", fails)
    duties.begin("goes on", goes_on)
    async with asyncio.timeout(2):
        await third.wait()
        await other.wait()
    await duties.end()
    seen = rounds
    await asyncio.sleep(0)
    assert rounds == seen


async def test_a_duty_that_returns_is_over():
    duties, rounds = BackgroundTasks(pause_s=0.0), 0

    async def once() -> None:
        nonlocal rounds
        rounds += 1

    duties.begin("once", once)
    for _ in range(5):
        await asyncio.sleep(0)
    await duties.end()
    assert rounds == 1


async def test_a_duty_whose_library_swallows_a_cancellation_ends_all_the_same(monkeypatch):
    monkeypatch.setattr("quotapool.app.background._SAY_AGAIN_S", 0.0)
    duties, swallowed = BackgroundTasks(), 0

    async def deaf() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    duties.begin("deaf", deaf)
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await duties.end()
    assert swallowed == 3
