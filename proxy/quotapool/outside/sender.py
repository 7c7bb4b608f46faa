"""Sends one process's tallies to the store every ten seconds. What it does not take is lost; nobody waits for it."""

from __future__ import annotations

import asyncio

import structlog

from quotapool.domain.outside_use import SLICE_S
from quotapool.ledger.budgets import Ledger
from quotapool.outside.shared_tallies import SharedTallies
from quotapool.outside.tallies import OutsideTallies
from quotapool.store.store import StoreError

_log = structlog.get_logger()


class OutsideSender:
    """`enabled` may be set at any time."""

    def __init__(self, ledger: Ledger, store: SharedTallies, *, enabled: bool) -> None:
        self._ledger = ledger
        self._store = store
        self._tallies = OutsideTallies()
        self.enable(enabled)

    def enable(self, enabled: bool) -> None:
        self._ledger.witness = self._tallies if enabled else None

    async def run(self) -> None:
        """Forever."""
        while True:
            await asyncio.sleep(SLICE_S)
            try:
                await self.flush()
            except StoreError:
                pass  # that is reported elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, the next slice may be sent
                _log.exception("tallies of outside use cannot be sent")

    async def flush(self) -> None:
        """Raises StoreError."""
        if tallies := self._tallies.drain(self._ledger):
            await self._store.add(tallies)
