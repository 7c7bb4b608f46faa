"""Asks OpenAI once an hour what it says of the pool's keys and accounts, and keeps the answers for everybody.

In the store for `check` and the alerts; where `import_limits` is on, the limits of projects as if they were written in
the configuration. Without admin keys and session keys it does nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiohttp
import structlog

from quotapool.openai_admin.collect import Collector, connector
from quotapool.openai_admin.limits import with_imported
from quotapool.openai_admin.records import OpenAIRecords
from quotapool.openai_admin.shapes import RateLimit
from quotapool.settings import Settings
from quotapool.store.store import Store, StoreError

_log = structlog.get_logger()
_EVERY_S: Final = 3600.0
_SOON_S: Final = 60.0  # after questions that failed
_LEAST_S: Final = 10.0  # between two rounds, however often the configuration changes


class OpenAISync:
    """`serving`: the settings of the moment, with the vault's keys; `moved` is called when imported limits change."""

    def __init__(
        self, store: Store, serving: Callable[[], Settings], moved: Callable[[], None], *, every_s: float = _EVERY_S
    ) -> None:
        self._store = store
        self._serving = serving
        self._moved = moved
        self._every_s = every_s
        self._again = asyncio.Event()
        self._imported: dict[str, list[RateLimit]] = {}
        self.key_ends: dict[str, float] = {}  # key id -> when it expires, Unix seconds

    def over(self, settings: Settings) -> Settings:
        """The settings with the imported limits written in."""
        if not settings.import_limits:
            return settings
        projects = {name for name, account in settings.accounts.items() if account.project is not None}
        return with_imported(settings, {name: rows for name, rows in self._imported.items() if name in projects})

    def reload(self) -> None:
        """The settings changed: ask now."""
        self._again.set()

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._serving()
        async with aiohttp.ClientSession(connector=connector(settings.ca_file)) as http:
            collector = Collector(http)
            while True:
                well = await self.ask(collector)
                wait_s = (self._every_s if well else min(_SOON_S, self._every_s)) * random.uniform(0.9, 1.1)
                least_s = min(_LEAST_S, wait_s)
                await asyncio.sleep(least_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s - least_s):  # `wait_for` may swallow a cancellation
                        await self._again.wait()
                self._again.clear()

    async def ask(self, collector: Collector) -> bool:
        """One round. False where it is worth asking again soon."""
        settings = self._serving()
        if not settings.admin_keys and not any(account.session_key for account in settings.accounts.values()):
            return True
        told = await collector.collect(settings)
        known = {key: end for key, end in self.key_ends.items() if key not in told.keys}
        self.key_ends = known | {key: said.expires_at for key, said in told.keys.items() if said.expires_at is not None}
        for problem in told.problems:
            _log.warning("OpenAI does not say", problem=problem)
        if any(self._imported.get(account) != rows for account, rows in told.limits.items()):
            self._imported |= told.limits
            if settings.import_limits:
                _log.info("limits imported from OpenAI", accounts=sorted(told.limits))
                self._moved()
        try:
            await OpenAIRecords(self._store, settings.pool).write(told.keys, told.accounts)
        except StoreError:
            return False
        return not told.problems
