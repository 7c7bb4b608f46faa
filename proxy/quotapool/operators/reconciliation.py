"""Our spend beside OpenAI's own costs, asked for with the admin keys: for the command line, and month by month for the
admin API, in the background and at most every ten minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import aiohttp

from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import SpendStore
from quotapool.openai_admin.client import KeyCost, KeyUsage
from quotapool.openai_admin.collect import Collected, Collector, accounts_of, admin_key_of, connector
from quotapool.openai_admin.json_reader import NoAnswer
from quotapool.openai_admin.reconcile import Reconciliation, reconcile
from quotapool.openai_admin.records import OpenAIRecords
from quotapool.settings import Settings
from quotapool.shapes import work as work_shapes
from quotapool.shapes.work import ReconcileRow
from quotapool.store.store import Store, StoreError

_FRESH_S: Final = 600.0
_LONGEST_S: Final = 120.0  # of asking OpenAI, which may have many pages
_CALLER_WAITS_S: Final = 8.0
_OTHERS: Final = "other accounts"
NO_ADMIN_KEY: Final = (
    "no admin key: add `admin_keys: [{organization: NAME, secret: ${OPENAI_ADMIN_KEY}}]`; an owner of the "
    "organisation creates one at https://platform.openai.com/settings/organization/admin-keys"
)
ASKING: Final = "OpenAI is being asked; ask again in some seconds"


async def ask(settings: Settings, collector: Collector, store: Store) -> Collected:
    """Ask OpenAI, and keep its answers for the alerts and `check`. Raises StoreLost."""
    answers = await collector.collect(settings)
    await OpenAIRecords(store, settings.pool).write(answers.keys, answers.accounts)
    return answers


async def compared(
    settings: Settings, collector: Collector, store: Store, first: date, last: date, today: date
) -> tuple[Reconciliation, Collected]:
    """These days (UTC, both included), and what OpenAI answered; its `problems` name what is missing. Raises
    StoreLost."""
    answers = await ask(settings, collector, store)
    costs: list[KeyCost] = []
    usage: list[KeyUsage] = []
    accounts: list[str] = []
    for admin in settings.admin_keys:
        of_admin = [account for account in accounts_of(settings) if admin_key_of(settings, account) is admin]
        organisation = collector.organisation(settings, admin)
        try:
            costs += await organisation.costs(first, last)
            accounts += of_admin
            usage += await organisation.usage(first, last)
        except NoAnswer as refused:
            answers.problems.append(f"admin key of {admin.organization}: {refused}")
    ours = await SpendStore(store, settings.pool).totals("key", first, last)
    account_of = {key.id: key.account for key in settings.keys}
    result = await asyncio.to_thread(reconcile, ours, costs, usage, answers, account_of, accounts, today)
    return result, answers


class MonthlyReconciliation:
    """This month's. `settings`: those in force, with the vault's keys."""

    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._settings = settings
        self._store = store
        self._task: asyncio.Task[work_shapes.Reconciliation] | None = None
        self._asked: tuple[object, ...] = ()
        self._at = 0.0

    async def now(self) -> work_shapes.Reconciliation:
        """What is known; `problem` tells why it is nothing, or not yet. Raises StoreError."""
        settings, today = self._settings(), datetime.now(UTC).date()
        month = f"{today:%Y-%m}"
        if not settings.admin_keys:
            return work_shapes.Reconciliation(month, [], NO_ADMIN_KEY)
        asked = (month, tuple(admin.organization for admin in settings.admin_keys))
        task = self._task
        if task is None or asked != self._asked or (task.done() and time.monotonic() - self._at > _FRESH_S):
            task = self._task = asyncio.create_task(self._ask(settings, today), name="reconciliation")
            self._asked, self._at = asked, time.monotonic()
        await asyncio.wait({task}, timeout=_CALLER_WAITS_S)
        if not task.done():
            return work_shapes.Reconciliation(month, [], ASKING)
        if task.cancelled() or task.exception() is not None:
            self._task = None  # the next caller asks again
        return task.result()

    async def close(self) -> None:
        """Ask no longer."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _ask(self, settings: Settings, today: date) -> work_shapes.Reconciliation:
        month, first = f"{today:%Y-%m}", today.replace(day=1)
        try:
            async with (
                asyncio.timeout(_LONGEST_S),
                aiohttp.ClientSession(connector=connector(settings.ca_file)) as http,
            ):
                result, answers = await compared(settings, Collector(http), self._store, first, today, today)
        except StoreError:
            raise
        except TimeoutError:
            return work_shapes.Reconciliation(month, [], f"OpenAI did not answer within {_LONGEST_S:.0f} s")
        rows = await asyncio.to_thread(by_organization, settings, result, answers)
        nothing = all(row.theirs_usd is None for row in rows)
        problem = "; ".join(answers.problems[:3]) or "OpenAI reported no costs" if nothing else ""
        return work_shapes.Reconciliation(month, rows, problem)


def by_organization(settings: Settings, result: Reconciliation, answers: Collected) -> list[ReconcileRow]:
    """The sums of each admin key's accounts; last those of the accounts whose costs OpenAI did not report."""
    names = _names(settings)
    sums: dict[str, list[Any]] = {admin.organization: [0, None] for admin in settings.admin_keys}
    for row in result.rows:
        sum_ = sums.setdefault(names.get(row.account, _OTHERS), [0, None])
        sum_[0] += row.ours
        if row.theirs is not None:
            sum_[1] = (sum_[1] or 0) + row.theirs
    return [_shown(name, ours, theirs, answers) for name, (ours, theirs) in sums.items()]


def _names(settings: Settings) -> Mapping[str, str]:
    found = {}
    for account in accounts_of(settings):
        if (admin := admin_key_of(settings, account)) is not None:
            found[account] = admin.organization
    return found


def _shown(name: str, ours: int, theirs: int | None, answers: Collected) -> ReconcileRow:
    mine = [problem for problem in answers.problems if problem.startswith(f"admin key of {name}:")]
    problem = "; ".join(mine[:3])
    if theirs is None and not problem:
        problem = "no admin key is for them" if name == _OTHERS else "OpenAI reported no costs for it"
    if theirs is None:
        return ReconcileRow(name, ours / PICO, None, None, problem)
    return ReconcileRow(name, ours / PICO, theirs / PICO, (ours - theirs) / PICO, problem)
