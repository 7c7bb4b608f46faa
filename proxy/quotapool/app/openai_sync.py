"""Asks OpenAI once an hour about the pool's keys and accounts, and keeps the answers.

They are kept in the store for `check` and the alerts; with `import_limits`, the limits of projects are used as if they
stood in the configuration. Without admin keys and session keys it does nothing.
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
_SOON_S: Final = 60.0  # after a round with failures
_LEAST_S: Final = 10.0  # between two rounds, however often the configuration changes


class OpenAISync:
    """`current`: the settings in use, with the vault's keys; `on_new_limits` is called when imported limits change."""

    def __init__(
        self,
        store: Store,
        current: Callable[[], Settings],
        on_new_limits: Callable[[], None],
        *,
        every_s: float = _EVERY_S,
    ) -> None:
        self._store = store
        self._current = current
        self._on_new_limits = on_new_limits
        self._every_s = every_s
        self._now = asyncio.Event()
        self._imported: dict[str, list[RateLimit]] = {}
        self.key_ends: dict[str, float] = {}  # key id -> when it expires, Unix seconds

    def with_imported_limits(self, settings: Settings) -> Settings:
        """The settings, and in them the imported limits."""
        if not settings.import_limits:
            return settings
        projects = {name for name, account in settings.accounts.items() if account.project is not None}
        return with_imported(settings, {name: rows for name, rows in self._imported.items() if name in projects})

    def reload(self) -> None:
        """The settings changed: ask OpenAI now."""
        self._now.set()

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._current()
        async with aiohttp.ClientSession(connector=connector(settings.ca_file)) as http:
            collector = Collector(http)
            while True:
                complete = await self.ask(collector)
                wait_s = (self._every_s if complete else min(_SOON_S, self._every_s)) * random.uniform(0.9, 1.1)
                least_s = min(_LEAST_S, wait_s)
                await asyncio.sleep(least_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s - least_s):  # `wait_for` may swallow a cancellation
                        await self._now.wait()
                self._now.clear()

    async def ask(self, collector: Collector) -> bool:
        """One round. False if it is worth asking again soon."""
        settings = self._current()
        if not settings.admin_keys and not any(account.session_key for account in settings.accounts.values()):
            return True
        answers = await collector.collect(settings)
        known = {key: end for key, end in self.key_ends.items() if key not in answers.keys}
        new = {key: answer.expires_at for key, answer in answers.keys.items() if answer.expires_at is not None}
        self.key_ends = known | new
        for problem in answers.problems:
            _log.warning("OpenAI did not answer a question", problem=problem)
        if any(self._imported.get(account) != rows for account, rows in answers.limits.items()):
            self._imported |= answers.limits
            if settings.import_limits:
                _log.info("limits imported from OpenAI", accounts=sorted(answers.limits))
                self._on_new_limits()
        try:
            await OpenAIRecords(self._store, settings.pool).write(answers.keys, answers.accounts)
        except StoreError:
            return False
        return not answers.problems
