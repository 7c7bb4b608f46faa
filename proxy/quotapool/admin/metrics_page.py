"""The page `/metrics`: made when it is asked for, in another thread, once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path

from quotapool.observe.exposition import encoded
from quotapool.observe.metrics import PoolMetrics
from quotapool.observe.shared_text import shared_text


class MetricsPage:
    """`refresh` fills `metrics`; `directory`: where the workers keep theirs.

    A page is used again for as long as it took to make, so that whoever asks without end takes half the time of one
    core at most. A small pool's takes milliseconds.
    """

    def __init__(self, metrics: PoolMetrics, refresh: Callable[[], Awaitable[None]], directory: Path) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._directory = directory
        self._making: asyncio.Task[bytes] | None = None
        self._fresh_until = 0.0

    async def body(self) -> bytes:
        """In Prometheus's text format."""
        making = self._making
        if making is None or (making.done() and (making.exception() or time.monotonic() > self._fresh_until)):
            making = self._making = asyncio.create_task(self._make())
        return await asyncio.shield(making)  # others may wait for it too

    async def _make(self) -> bytes:
        began = time.monotonic()
        await self._refresh()
        body = await asyncio.to_thread(self._render)
        now = time.monotonic()
        self._fresh_until = now + (now - began)
        return body

    def _render(self) -> bytes:
        pieces: Iterator[str] = chain(self._metrics.text(), shared_text(self._directory))
        return encoded(pieces)
