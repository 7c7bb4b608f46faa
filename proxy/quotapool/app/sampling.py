"""Samples of the pool's room for operators, every five seconds, by one replica at a time; and what waits in our queues.

Reading all buckets takes at most a twentieth of this process's time, so very large pools are sampled more rarely.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from quotapool.domain.waiting import Waiting
from quotapool.observe.samples import EVERY_S, LEASE_S, Bounded, SampleStore
from quotapool.operators.overview import Overview
from quotapool.reports.room import RoomReader
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_PAUSE_FACTOR: Final = 19  # of the time that a reading took
_QUEUES_S: Final = 2.0


class Sampling:
    """`waiting`: what requests of our own workers wait for."""

    def __init__(self, overview: Overview, samples: SampleStore, waiting: Callable[[], list[Waiting]]) -> None:
        self._overview = overview
        self._samples = samples
        self._waiting = waiting
        self._reader: RoomReader | None = None  # None: another replica samples
        self._bounded = Bounded()
        self._took_s = 0.0  # to read all buckets; the next sample comes so much later

    async def run(self) -> None:
        """Forever. What fails is logged once and tried again; nobody waits for it."""
        await asyncio.gather(
            self._forever(self.tick, EVERY_S, "the pool's room cannot be sampled"),
            self._forever(self.tell_queues, _QUEUES_S, "what waits cannot be told"),
        )

    @staticmethod
    async def _forever(step: Callable[[], Awaitable[None]], every_s: float, problem: str) -> None:
        failed = False
        while True:
            began = time.monotonic()
            try:
                await step()
                failed = False
            except StoreError:
                pass  # that is reported elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, no request depends on it; the next turn may succeed
                if not failed:
                    _log.exception(problem)
                failed = True
            took_s = time.monotonic() - began
            await asyncio.sleep(max(every_s - took_s, _PAUSE_FACTOR * took_s, 0.1))

    async def tick(self) -> None:
        """One sample, if it is this replica's turn. Raises StoreError."""
        if not await self._samples.acquire(max(LEASE_S, 3 * _PAUSE_FACTOR * self._took_s)):
            self._reader = None
            return
        now = await self._overview.follow()
        if self._reader is None:
            self._reader = RoomReader(self._overview)
            self._bounded = Bounded(await self._samples.names(now))
        began = time.monotonic()
        reading = self._bounded.rows(await self._reader.read())
        self._took_s = time.monotonic() - began
        waiting = await self._samples.waiting()
        await self._samples.add(reading, sum(row.waiting for row in waiting))

    async def tell_queues(self) -> None:
        """Raises StoreError."""
        await self._samples.put_waiting(self._waiting())

    async def stop(self) -> None:
        """Let another replica sample at once."""
        if self._reader is not None:
            with contextlib.suppress(StoreError):
                await self._samples.release()
