"""Looks for outside use, in one replica at a time: judges the tallies of all. What it finds `outside.py` tells.

`domain/outside_use.py` has the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import structlog

from quotapool.app.outside import OutsideReports
from quotapool.domain.outside import OutsideUse
from quotapool.domain.outside_use import SLICE_S
from quotapool.operators.overview import Overview
from quotapool.outside.shared_tallies import SharedTallies, Stored
from quotapool.outside.tallies import Name
from quotapool.outside.watch import OutsideWatch
from quotapool.store.store import StoreError

_log = structlog.get_logger()


class OutsideWatching:
    """`run` forever, `stop` at the end."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        pool = overview.settings.pool
        self._store = SharedTallies(overview.ledger.store, pool, secrets.token_hex(8))
        self._reports = OutsideReports(overview)
        self._watch: OutsideWatch | None = None  # None: another replica judges
        self._place = ""

    async def run(self) -> None:
        """Forever. What fails is logged once and tried again."""
        failed = False
        while True:
            try:
                await self.tick()
                failed = False
            except StoreError:
                pass  # that is reported elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, no request depends on it; the next slice may succeed
                if not failed:
                    _log.exception("outside use cannot be looked for")
                failed = True
            await asyncio.sleep(SLICE_S)

    async def tick(self) -> None:
        """Judge a slice, if it is this replica's turn. Raises StoreError."""
        if not await self._store.acquire():
            self._watch = None
            return
        if not self._overview.settings.outside_use.enabled:
            self._watch = None
            await self._reports.take([], await self._overview.follow())
            return
        now = await self._overview.follow()
        if self._watch is None:
            self._watch, self._place = OutsideWatch(await self._store.named()), await self._store.end()
        watch, shared = self._watch, self._overview.settings.outside_use.accounts_shared
        sums, self._place = await self._store.since(self._place)
        accounts = self._overview.roster.pool.accounts
        if watch.may_judge(await self._store.replicas(), now):
            watch.take({name: slices for name, slices in sums.items() if name[0] in accounts})
            await self._judge(watch, [*shared, *(name[0] for name in watch.named if name[0] not in accounts)], now)
        await self._reports.take([_use(name, stored) for name, stored in watch.named.items()], now)
        watch.tidy(now)

    async def _judge(self, watch: OutsideWatch, ignored: list[str], now: float) -> None:
        for name in list(watch.ended(ignored, now)):
            del watch.named[name]
            await self._store.forget(name)
        for name, judged in list(watch.begun(ignored, now)):
            watch.named[name] = Stored(judged.since, judged)
        for name, stored in list(watch.named.items()):
            if (judged_now := watch.judged(name)) is not None:
                watch.named[name] = Stored(stored.since, judged_now)
                await self._store.put(name, watch.named[name])

    async def stop(self) -> None:
        """Let another replica judge at once."""
        if self._watch is not None:
            with contextlib.suppress(StoreError):
                await self._store.release()


def _use(name: Name, stored: Stored) -> OutsideUse:
    judged = stored.judged
    return OutsideUse(*name, stored.since, max(0.0, judged.requests_per_minute), max(0.0, judged.tokens_per_minute))
