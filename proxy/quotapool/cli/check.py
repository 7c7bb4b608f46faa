"""`quotapool check`: what upstream answers about each key, what the store knows about it, and what to do next.

Exit codes: 0 every key is valid and active; 1 at least one is not, or there is none; 2 that could not be found out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quotapool.cli import tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.keys import state_word
from quotapool.cli.progress import shown_progress
from quotapool.domain.states import State
from quotapool.keys.check import KeyCheck, KeyChecker, check_all
from quotapool.openai_admin.collect import Collector, connector
from quotapool.openai_admin.records import AccountRecord, KeyRecord, OpenAIRecords
from quotapool.operators.keys import LOCKED, KeyOperations, next_step
from quotapool.settings import Settings
from quotapool.store.store import Store

_PER_SECOND: Final = 500.0
_OPENAI_TIMEOUT_S: Final = 30.0
_DAY_S: Final = 86_400
_FEW: Final = 30  # keys that are all shown
_MOST_SHOWN: Final = 100  # unusable ones, without --all
_DIMENSIONS: Final = ("rpm", "tpm", "rpd", "tpd", "ipm")
_NOT_CHECKED: Final = KeyCheck(False, "not asked", "its secret is locked")


def run(settings: Settings, *, as_json: bool, show_all: bool = False) -> int:
    """Ask upstream about every key, and print it beside what the store knows; the exit code, as above."""

    async def command(keys: KeyOperations) -> int:
        rows, checks = await asyncio.gather(keys.rows(), _check_all(keys))
        for row in rows:
            check = checks.get(row["id"], _NOT_CHECKED)
            row |= {"valid": check.ok, "answer": check.answer, "detail": check.detail}
            row["usable"] = check.ok and row["state"] == State.ACTIVE.value
            row["next"] = row["next"] if row["state"] == LOCKED else next_step(row, check)
        problems = await _add_openai_columns(keys.settings, keys.overview.ledger.store, rows)
        if as_json:
            tables.print_json({"keys": rows, "summary": _summary(rows), "problems": problems})
        else:
            _print(rows, problems, show_all=show_all)
        return _exit_code(rows, checks)

    return run_with_keys(settings, command)


def _exit_code(rows: list[dict[str, Any]], checks: dict[str, KeyCheck]) -> int:
    unusable = [row for row in rows if not row["usable"]]
    if rows and not unusable:
        return 0
    known = [
        row for row in unusable if row["state"] != State.ACTIVE.value or checks.get(row["id"], _NOT_CHECKED).is_known
    ]
    return 1 if known or not rows else 2


async def _check_all(keys: KeyOperations) -> dict[str, KeyCheck]:
    async with aclosing(KeyChecker(keys.settings, keys.redactor, per_second=_PER_SECOND)) as checker:
        found: dict[str, KeyCheck] = {}
        wanted = keys.settings.keys
        with shown_progress("asking OpenAI about keys", len(wanted)) as tell:
            async for key, check in check_all(checker, wanted, lambda key: key):
                found[key.id] = check
                tell(len(found), len(wanted))
        return found


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`usable` of `keys`, and how many there are in each state and with each answer."""
    return {
        "keys": len(rows),
        "usable": sum(row["usable"] for row in rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "answers": dict(Counter(row["answer"] for row in rows)),
    }


def _print(rows: list[dict[str, Any]], problems: list[str], *, show_all: bool) -> None:
    out = tables.console()
    unusable = [row for row in rows if not row["usable"]]
    everything = show_all or len(rows) <= _FEW
    shown = rows if everything else unusable[:_MOST_SHOWN]
    if shown:
        out.print(_health(shown))
    for table in (_credit(shown), _budgets(shown)):
        if table.row_count:
            out.print(table)
    _print_openai_columns(out, shown, problems)
    if not everything and len(unusable) > len(shown):
        out.print(f"... and {len(unusable) - len(shown):,} more unusable keys; --all shows every key")
    summary = _summary(rows)
    if not everything:
        for title in ("states", "answers"):
            counts = ", ".join(f"{count:,} {word}" for word, count in sorted(summary[title].items()))
            out.print(f"{title}: {counts}")
    out.print(
        f"{summary['usable']} of {len(rows)} keys usable" if rows else "the pool has no keys: `quotapool keys add`"
    )


def _health(rows: list[dict[str, Any]]) -> Table:
    """Each key: its state, upstream's answer, the reason, and what to do."""
    owners = [_owner(row) for row in rows]
    table = tables.table(
        "key", *(["account"] if any(owners) else []), "state", "OpenAI's answer", "reason, and what to do"
    )
    for row, owner in zip(rows, owners, strict=True):
        reason = row.get("reason") or ""
        answer = row["answer"].removesuffix(f": {reason}") if reason else row["answer"]
        table.add_row(
            row["id"],
            *([owner] if any(owners) else []),
            Text(state_word(row), "green" if row["usable"] else "red"),
            answer,
            "\n".join(filter(None, (reason, row["next"]))),
        )
    return table


def _owner(row: dict[str, Any]) -> str:
    """The account, if it is not the key's own, and its organisation."""
    account = row["account"] if row["account"] != row["id"] else ""
    return "\n".join(filter(None, (account, f"({row['organization']})" if row.get("organization") else "")))


def _accounts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each account: its keys share credit and budgets."""
    return list({row["account"]: row for row in reversed(rows)}.values())[::-1]


def _credit(rows: list[dict[str, Any]]) -> Table:
    """Money, of the accounts whose credit or limit is known."""
    table = tables.table("account", "credit")
    for row in _accounts(rows):
        if lines := _credit_lines(row):
            table.add_row(row["account"], "\n".join(lines))
    return table


def _credit_lines(row: dict[str, Any]) -> list[str]:
    """One line for the credit of a key's account and one for its month, if they are known."""
    credit = row.get("credit") or {}
    lines = []
    if "remaining_usd" in credit:
        parts = [f"credit ${credit['remaining_usd']:,.2f}", f"${credit['per_day_usd']:,.2f} a day"]
        if "empty_at" in credit:
            parts.append(f"empty {credit['empty_at'][:10]}")
        if "next_expiry" in credit:
            parts.append(f"next expiry {credit['next_expiry']}")
        if credit["expiring_unused_usd"]:
            parts.append(f"${credit['expiring_unused_usd']:,.2f} will expire unused")
        lines.append(", ".join(parts))
    if "month_limit_usd" in credit:
        lines.append(f"month ${credit['month_spent_usd']:,.2f} of ${credit['month_limit_usd']:,.2f}")
    return lines


def _budgets(rows: list[dict[str, Any]]) -> Table:
    """What is left of each account's budgets; dimensions without any limit have no column."""
    accounts = _accounts(rows)
    known = [name for name in _DIMENSIONS if any(name in budget for row in accounts for budget in row["budgets"])]
    table = tables.table("account", "model", *known, "", right=known)
    for row in accounts:
        for number, budget in enumerate(row["budgets"]):
            cells = (_cell(budget.get(name)) for name in known)
            table.add_row("" if number else row["account"], budget["model"], *cells, _remark(budget, known))
    return table


def _cell(level: dict[str, Any] | None) -> str:
    return "" if level is None else f"{max(0, level['remaining']):,.0f} / {level['limit']:,.0f}"


def _remark(budget: dict[str, Any], known: list[str]) -> str:
    remarks = [f"waits {budget['cooling_s']:.0f} s"] if budget["cooling_s"] else []
    if not any(name in budget for name in known):
        remarks.append("no limits known")
    remarks += [
        f"upstream allows {budget[name]['learned']:,.0f} {name}"
        for name in known
        if name in budget and (budget[name]["learned"] or 0) > budget[name]["limit"]
    ]
    return ", ".join(remarks)


# ---- what OpenAI itself reports: last use, expiry, spend limits, credit


async def _add_openai_columns(settings: Settings, store: Store, rows: list[dict[str, Any]]) -> list[str]:
    """Add to each row of `check` what OpenAI reports about its key (`openai`) and account (`openai_account`), null if
    nothing. Asks now if an admin key or a session key is configured; returns what went wrong, a line each."""
    records = OpenAIRecords(store, settings.pool)
    problems: list[str] = []
    if settings.admin_keys or any(account.session_key for account in settings.accounts.values()):
        try:
            async with (
                asyncio.timeout(_OPENAI_TIMEOUT_S),
                aiohttp.ClientSession(connector=connector(settings.ca_file)) as http,
            ):
                with shown_progress("reading limits and credit at OpenAI"):
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


def _print_openai_columns(console: Console, rows: list[dict[str, Any]], problems: list[str]) -> None:
    """A table of what `_add_openai_columns` added, if anything."""
    now = time.time()
    table = tables.table("key", "name at OpenAI", "last used", "expires", "its account at OpenAI")
    for row in rows:
        key = msgspec.convert(row.get("openai"), KeyRecord | None)
        account = msgspec.convert(row.get("openai_account"), AccountRecord | None)
        lines = _account_lines(account or AccountRecord(), now)
        if key is not None or lines:
            known = key or KeyRecord(key_id="")
            table.add_row(
                row["id"],
                known.name,
                _day(known.last_used_at) or ("never" if key else ""),
                _expiry(known.expires_at, now) or ("never" if key else ""),
                "\n".join(lines),
            )
    if table.row_count:
        console.print(table)
    for problem in problems:
        console.print(problem, markup=False)


def _expiry(at: float | None, now: float) -> str:
    """The day, and how many days are left; "" for never."""
    if not at:
        return ""
    if at <= now:
        return f"{_day(at)}: expired, create a new key"
    return f"{_day(at)}, in {int((at - now) // _DAY_S)} days"


def _account_lines(account: AccountRecord, now: float) -> list[str]:
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
        lines.append(f"access until {_expiry(account.access_until, now)}")
    if account.problem:
        lines.append(account.problem)
    return lines


def _day(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" if at else ""
