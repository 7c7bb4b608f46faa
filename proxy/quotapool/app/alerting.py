"""The herald: keeps the watch and the courier going in the supervisor, where somebody is to be told at all."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quotapool.alerts.delivery import AlertDelivery, targets_of
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.alerts.watch import AlertWatch, Condition, pool_headroom
from quotapool.app.credit_watch import CreditWatch
from quotapool.money.spend_store import SpendStore
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_EVERY_S: Final = 1.0
_LOOK_EVERY: Final = 5  # turns: the condition changes more slowly than events come
_HEADROOM_EVERY: Final = 30  # turns: reading all buckets costs what there are buckets


class Alerting:
    """`clean` takes secrets out of texts. `key_ends`: when keys expire (Unix seconds by id), where somebody knows."""

    def __init__(
        self,
        settings: Settings,
        overview: Overview,
        treasury: CreditWatch,
        clean: Callable[[str], str],
        key_ends: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.settings = settings
        self._overview = overview
        self._treasury = treasury
        self._clean = clean
        self._key_ends = key_ends
        store = overview.ledger.store
        self._board = SharedAlertState(store, settings.pool, secrets.token_hex(8))
        self._book = SpendStore(store, settings.pool)
        self._courier: AlertDelivery | None = None
        self._watch = AlertWatch(settings, self._board, overview.roster.pool, lambda _alert: None)
        self._headroom: Mapping[tuple[str, str], float] = {}

    async def begin(self) -> None:
        """Before the first client is served, so that nothing is missed."""
        await self._take(self.settings)

    async def reload(self, settings: Settings) -> None:
        """Take a new configuration; targets that changed lose what waits for them."""
        before, self.settings = self.settings, settings
        self._watch.settings = settings
        if before.alerts.targets != settings.alerts.targets:
            await self._take(settings)

    async def _take(self, settings: Settings) -> None:
        if self._courier is not None:
            await self._courier.stop()
        ca_file = str(settings.ca_file) if settings.ca_file else None
        targets, problems = await asyncio.to_thread(targets_of, settings.alerts.targets, ca_file)
        for problem in problems:
            _log.error("an alert target cannot be used", problem=self._clean(problem))
        counts = self._overview.metrics.alerts
        self._courier = AlertDelivery(
            settings.pool, targets, clean=self._clean, count=lambda target, result: counts[target, result].inc()
        )
        with contextlib.suppress(StoreError):
            await (self._board.set_cursor() if settings.alerts.targets else self._board.clear_cursor())
        self._watch.put = self._courier.put
        self._courier.start()

    async def run(self) -> None:
        """For ever. What fails here is told and tried again; nobody waits for it."""
        turn, failed = 0, ""
        while True:
            try:
                if self.settings.alerts.targets and await self._board.acquire_watch():
                    await self._turn(turn)
                failed = ""
            except StoreError:
                failed = "store"  # its absence is told elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, it concerns nobody's request; the next turn may go well
                if failed != "bug":
                    _log.exception("alerts cannot be watched for")
                failed = "bug"
            turn += 1
            await asyncio.sleep(_EVERY_S)

    async def _turn(self, turn: int) -> None:
        while await self._watch.read_events():
            continue
        standing = self._treasury.standing
        if turn % _LOOK_EVERY or standing is None:
            return
        await self._overview.roster.refresh()
        if turn % _HEADROOM_EVERY == 0 and self.settings.alerts.min_headroom:
            now, buckets = await self._overview.ledger.buckets()
            self._headroom = pool_headroom(self._overview.roster.pool, self._overview.settings, buckets, now)
        now_utc = datetime.now(UTC)
        await self._watch.check(
            Condition(
                now_utc,
                standing.wallets,
                standing.spent_today,
                standing.closed_until,
                await self._book.hours(now_utc - timedelta(days=8), now_utc),
                self._headroom,
                self._key_ends(),
            )
        )

    async def stop(self) -> None:
        """Let another replica watch at once."""
        if self._courier is not None:
            await self._courier.stop()
        with contextlib.suppress(StoreError):
            await self._board.release_watch()
