"""What OpenAI itself reports about keys and accounts, for `quotapool check`: last use, expiry, spend limits, credit."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec
from rich.console import Console

from quotapool.cli import tables
from quotapool.openai_admin.collect import Collector, connector
from quotapool.openai_admin.records import AccountRecord, KeyRecord, OpenAIRecords
from quotapool.settings import Settings
from quotapool.store.store import Store

_TIMEOUT_S: Final = 30.0
_DAY_S: Final = 86_400


async def add_openai_columns(settings: Settings, store: Store, rows: list[dict[str, Any]]) -> list[str]:
    """Add to each row of `check` what OpenAI reports about its key (`openai`) and account (`openai_account`), null if
    nothing. Asks now if an admin key or a session key is configured; returns what went wrong, a line each."""
    records = OpenAIRecords(store, settings.pool)
    problems: list[str] = []
    if settings.admin_keys or any(account.session_key for account in settings.accounts.values()):
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                aiohttp.ClientSession(connector=connector(settings.ca_file)) as http,
            ):
                answers = await Collector(http).collect(settings)
        except TimeoutError:
            problems.append("OpenAI's admin API did not answer in time; what follows is its last answer")
        else:
            problems += answers.problems
            await records.write(answers.keys, answers.accounts)
    keys, accounts = await records.read()
    for row in rows:
        row["openai"] = msgspec.to_builtins(keys.get(row["id"]))
        row["openai_account"] = msgspec.to_builtins(accounts.get(row["account"]))
    return problems


def print_openai_columns(console: Console, rows: list[dict[str, Any]], problems: list[str]) -> None:
    """A table of what `add_openai_columns` added, if anything."""
    now = time.time()
    table = tables.table("key", "name at OpenAI", "last used", "expires", "its account at OpenAI")
    for row in rows:
        key = msgspec.convert(row.get("openai"), KeyRecord | None)
        account = msgspec.convert(row.get("openai_account"), AccountRecord | None)
        lines = account_lines(account or AccountRecord(), now)
        if key is not None or lines:
            known = key or KeyRecord(key_id="")
            table.add_row(
                row["id"],
                known.name,
                _day(known.last_used_at) or ("never" if key else ""),
                expiry(known.expires_at, now) or ("never" if key else ""),
                "\n".join(lines),
            )
    if table.row_count:
        console.print(table)
    for problem in problems:
        console.print(problem, markup=False)


def expiry(at: float | None, now: float) -> str:
    """The day, and how many days are left; "" for never."""
    if not at:
        return ""
    if at <= now:
        return f"{_day(at)}: expired, create a new key"
    return f"{_day(at)}, in {int((at - now) // _DAY_S)} days"


def account_lines(account: AccountRecord, now: float) -> list[str]:
    """Limits and credit in words, and what to do about what is used up."""
    lines = []
    for who, limit, stopped in (
        ("project", account.project_limit_usd, account.project_stopped),
        ("organisation", account.organization_limit_usd, account.organization_stopped),
    ):
        if limit is not None:
            reached = ": reached; raise it, or wait for the month's turn" if stopped else ""
            lines.append(f"{who}'s spend limit ${limit:,.2f} a month{reached}")
    if account.available_usd is not None:
        lines.append(f"credit left ${account.available_usd:,.2f} of ${account.granted_usd or 0:,.2f}")
    if account.month_usd is not None:
        lines.append(f"spent this month ${account.month_usd:,.2f}")
    if account.access_until:
        lines.append(f"access until {expiry(account.access_until, now)}")
    if account.problem:
        lines.append(account.problem)
    return lines


def _day(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" if at else ""
