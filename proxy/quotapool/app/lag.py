"""How late this process's timers fire: the worst of the last seconds, so that a scrape sees a stall that is over."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_EVERY_S: Final = 0.1
_REMEMBERED_S: Final = 15.0  # a usual time between two scrapes


class LagWatch:
    """`show` gets the worst lag of the last 15 seconds, in seconds."""

    def __init__(self, show: Callable[[float], object]) -> None:
        self._show = show
        self._worst: deque[tuple[float, float]] = deque()  # (when, lag): lags fall from the left to the right

    async def run(self) -> None:
        """Until cancelled. Nothing else is awaited here, so that only the event loop is measured."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(_EVERY_S)
            now = time.monotonic()
            self.note(now, max(0.0, now - started - _EVERY_S))

    def note(self, now: float, lag_s: float) -> None:
        """One measurement at `now`, on the monotonic clock."""
        worst = self._worst
        while worst and worst[-1][1] <= lag_s:
            worst.pop()
        worst.append((now, lag_s))
        while worst[0][0] <= now - _REMEMBERED_S:
            worst.popleft()
        self._show(worst[0][1])
