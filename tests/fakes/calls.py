"""Work in calls of functions: the same number on every machine. A compiled function counts as one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Calls:
    """`in_a_turn`: at most, of the loop; so long others wait for theirs."""

    number: int = 0
    in_a_turn: int = 0


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Of this thread, until the end of the block."""
    calls = Calls()

    def count(_: FrameType, event: str, __: object) -> None:
        if event in {"call", "c_call"}:
            calls.number += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)


async def calls_of(work: Callable[[], Awaitable[object]]) -> Calls:
    ended = False

    async def watch(calls: Calls) -> None:
        while not ended:
            before = calls.number
            await asyncio.sleep(0)
            calls.in_a_turn = max(calls.in_a_turn, calls.number - before)

    with counted_calls() as calls:
        watching = asyncio.create_task(watch(calls))
        await asyncio.sleep(0)
        try:
            await work()
        finally:
            ended = True
            await watching
    return calls
