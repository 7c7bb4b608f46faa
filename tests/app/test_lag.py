"""The lag of the event loop, as a scrape sees it: the worst of the last 15 seconds."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from quotapool.app.lag import LagWatch


def test_the_worst_of_the_last_fifteen_seconds_is_shown():
    shown: list[float] = []
    watch = LagWatch(shown.append)
    for at, lag in ((100.0, 0.01), (101.0, 0.5), (102.0, 0.02), (110.0, 0.03), (115.9, 0.0)):
        watch.note(at, lag)
    assert shown == [0.01, 0.5, 0.5, 0.5, 0.5]
    # The stall of second 101 is 15 s ago; what came after it counts again, the worst first.
    watch.note(116.0, 0.01)
    assert shown[-1] == 0.03
    watch.note(125.0, 0.005)
    assert shown[-1] == 0.01
    watch.note(200.0, 0.0)
    assert shown[-1] == 0.0


@pytest.mark.parametrize("stalls", [0, 1])
async def test_a_stall_that_is_over_can_still_be_seen(virtual_time, stalls):
    """Given a loop that one piece of work holds up for 0.3 s, I expect a lag of 0.2 s or more: a timer was due within
    0.1 s of its beginning. Without it the lag stays far below."""
    shown: list[float] = []
    running = asyncio.create_task(LagWatch(shown.append).run())
    await asyncio.sleep(0)
    for _ in range(stalls):
        virtual_time.advance(0.3)  # the fault under test
    async with asyncio.timeout(5):
        while len(shown) < 3:
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert (shown[-1] > 0.19) == bool(stalls)
