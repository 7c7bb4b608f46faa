"""Keeps alerts going in the supervisor: watches the pool where targets are configured, and delivers what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quotapool.alerts.delivery import AlertDelivery, Target, targets_of
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.alerts.watch import AlertWatch, Condition, pool_headroom
from quotapool.app.credit_watch import CreditWatch
from quotapool.domain.alert import Alert
from quotapool.ledger.stored_rules import Level
from quotapool.money.spend_store import SpendStore
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_EVERY_S: Final = 1.0
_CHECK_EVERY: Final = 5  # rounds: conditions change more slowly than events come
_CLIENTS_EVERY: Final = 10  # rounds: all their budgets are read
_HEADROOM_EVERY: Final = 30  # rounds: the cost of reading all buckets grows with their number


class Alerting:
    """`clean` takes secrets out of texts. `key_ends`: when keys expire (Unix seconds by id), if known."""

    def __init__(
        self,
        settings: Settings,
        overview: Overview,
        credit: CreditWatch,
        clean: Callable[[str], str],
        key_ends: Callable[[], Mapping[str, float]],
    ) -> None:
        self._settings = settings
        self._overview = overview
        self._credit = credit
        self._clean = clean
        self._key_ends = key_ends
        store = overview.ledger.store
        self._shared_state = SharedAlertState(store, settings.pool, secrets.token_hex(8))
        self._spend = SpendStore(store, settings.pool)
        self._delivery = self._delivery_to([])
        self._watch = AlertWatch(settings, self._shared_state, overview.roster.pool, self._deliver)
        self._headroom: Mapping[tuple[str, str], float] = {}
        self._client_rules: Mapping[str, list[Level]] = {}

    async def reload(self, settings: Settings) -> None:
        """Take a new configuration; if the targets changed, alerts that wait for delivery are dropped."""
        before, self._settings = self._settings, settings
        self._watch.settings = settings
        if before.alerts.targets != settings.alerts.targets:
            await self.start()

    async def start(self) -> None:
        """Use the configured targets; before the first client is served, so that nothing is missed."""
        await self._delivery.stop()
        settings = self._settings
        targets, problems = await asyncio.to_thread(targets_of, settings.alerts.targets, settings.ca_file)
        for problem in problems:
            _log.error("an alert target cannot be used", problem=self._clean(problem))
        self._delivery = self._delivery_to(targets)
        with contextlib.suppress(StoreError):
            await (self._shared_state.set_cursor() if settings.alerts.targets else self._shared_state.clear_cursor())
        self._delivery.start()

    def _delivery_to(self, targets: Sequence[Target]) -> AlertDelivery:
        counts = self._overview.metrics.alerts
        return AlertDelivery(
            self._settings.pool, targets, clean=self._clean, count=lambda target, result: counts[target, result].inc()
        )

    def _deliver(self, alert: Alert) -> None:
        self._delivery.put(alert)

    async def run(self) -> None:
        """Forever. What fails here is logged and tried again; nobody waits for it."""
        number, failed = 0, ""
        while True:
            try:
                if self._settings.alerts.targets and await self._shared_state.acquire_watch():
                    await self._round(number)
                failed = ""
            except StoreError:
                failed = "store"  # that is reported elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, no request depends on it; the next round may succeed
                if failed != "bug":
                    _log.exception("the pool cannot be watched for alerts")
                failed = "bug"
            number += 1
            await asyncio.sleep(_EVERY_S)

    async def _round(self, number: int) -> None:
        while await self._watch.read_events():
            continue
        standing = self._credit.standing
        if number % _CHECK_EVERY or standing is None:
            return
        await self._overview.sync.refresh()
        if number % _HEADROOM_EVERY == 0 and self._settings.alerts.min_headroom:
            now, buckets = await self._overview.ledger.stored.all()
            self._headroom = pool_headroom(self._overview.roster.pool, self._overview.settings, buckets, now)
        if number % _CLIENTS_EVERY == 0:
            self._client_rules = defaultdict(list)
            for one in await self._overview.client_rules.levels():
                self._client_rules[one.subject].append(one.level)
        now_utc = datetime.now(UTC)
        await self._watch.check(
            Condition(
                now_utc,
                standing.wallets,
                standing.spent_today,
                standing.closed_until,
                await self._spend.hours(now_utc - timedelta(days=8), now_utc),
                self._headroom,
                self._key_ends(),
                self._client_rules,
                self._overview.client_rules.expiries(),
            )
        )

    async def stop(self) -> None:
        """Let another replica watch at once."""
        await self._delivery.stop()
        with contextlib.suppress(StoreError):
            await self._shared_state.release_watch()
