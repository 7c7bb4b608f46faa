"""The admin API's handlers for pages of thousands of keys: short rows, accounts, OpenAI's costs, the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quotapool.admin.http import Call, Handler
from quotapool.money.last_used import LastUsed
from quotapool.observe.request_store import RequestStore
from quotapool.operators.accounts import InvalidTopUp, UnknownAccount, account_rows, day_of, topup
from quotapool.operators.keys import KeyOperations, UnknownKey
from quotapool.operators.reconciliation import MonthlyReconciliation
from quotapool.reports.configuration import configuration
from quotapool.reports.dry_run import DryRuns
from quotapool.reports.key_lines import key_lines, users_of
from quotapool.shapes.work import AccountRows, KeyLines, TopUp
from quotapool.store.store import Store

WORK_CODES: dict[type[Exception], str] = {InvalidTopUp: "bad_request", UnknownAccount: "not_found"}


class WorkHandlers:
    """`after_restart`: the options whose new value waits for a restart."""

    def __init__(self, keys: KeyOperations, store: Store, after_restart: Callable[[], Sequence[str]]) -> None:
        self._keys = keys
        self._after_restart = after_restart
        self._last_used = LastUsed(store, keys.settings.pool)
        self._requests = RequestStore(store, keys.settings.pool)
        self._reconciliation = MonthlyReconciliation(lambda: keys.settings, store)
        self._dry_runs = DryRuns(keys.overview, store)

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "list_key_lines": self._list_key_lines,
            "list_key_users": self._list_key_users,
            "list_accounts": self._list_accounts,
            "top_up_account": self._top_up_account,
            "show_reconciliation": self._show_reconciliation,
            "show_configuration": self._show_configuration,
            "try_request": self._try_request,
        }

    async def close(self) -> None:
        """Ask OpenAI no longer."""
        await self._reconciliation.close()

    async def _list_key_lines(self, _: Call) -> Any:
        return KeyLines(await key_lines(self._keys, self._last_used))

    async def _list_key_users(self, call: Call) -> Any:
        if call.id not in self._keys.overview.roster.pool.keys and call.id not in self._keys.sources.missing:
            raise UnknownKey(call.id)
        return await users_of(call.id, self._requests)

    async def _list_accounts(self, _: Call) -> Any:
        return AccountRows(await account_rows(self._keys.overview))

    async def _top_up_account(self, call: Call) -> Any:
        body: TopUp = call.body
        await topup(self._keys.overview, call.id, body.usd, day_of(body.granted_on), day_of(body.expires_on))
        (row,) = await account_rows(self._keys.overview, only=call.id)
        return row

    async def _show_reconciliation(self, _: Call) -> Any:
        return await self._reconciliation.now()

    async def _show_configuration(self, _: Call) -> Any:
        return configuration(self._keys.settings, self._keys.sources.configured, self._after_restart())

    async def _try_request(self, call: Call) -> Any:
        return await self._dry_runs.answer(call.body)
