"""`quotapool check`: what upstream answers about each key, what the store knows about it, and what to do next.

Exit codes: 0 every key is valid and active; 1 at least one is not; 2 that could not be found out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import msgspec
from rich.table import Table
from rich.text import Text

from quotapool.cli import tables
from quotapool.cli.key_access import run_with_keys
from quotapool.cli.keys import state_word
from quotapool.cli.openai_columns import add_openai_columns, print_openai_columns
from quotapool.domain.states import State
from quotapool.keys.check import KeyCheck, KeyChecker, check_all
from quotapool.operators.keys import LOCKED, KeyOperations, next_step
from quotapool.settings import Settings

_PER_SECOND: Final = 500.0
_FEW: Final = 30  # keys that are all shown
_MOST_SHOWN: Final = 100  # unusable ones, without --all
_DIMENSIONS: Final = ("rpm", "tpm", "rpd", "tpd", "ipm")
_NOT_CHECKED: Final = KeyCheck(False, "not asked", "its secret is locked")


def run(settings: Settings, *, as_json: bool, show_all: bool = False) -> int:
    """Exit code 0 only if every key is valid and active."""

    async def command(keys: KeyOperations) -> int:
        rows, checks = await asyncio.gather(keys.rows(), _check_all(keys))
        for row in rows:
            check = checks.get(row["id"], _NOT_CHECKED)
            row |= {"valid": check.ok, "answer": check.answer, "detail": check.detail}
            row["usable"] = check.ok and row["state"] == State.ACTIVE.value
            row["next"] = row["next"] if row["state"] == LOCKED else next_step(row, check)
        problems = await add_openai_columns(keys.settings, keys.overview.ledger.store, rows)
        if as_json:
            print(msgspec.json.encode({"keys": rows, "summary": _summary(rows), "problems": problems}).decode())
        else:
            _print(rows, problems, show_all=show_all)
        return 0 if all(row["usable"] for row in rows) else 1

    return run_with_keys(settings, command)


async def _check_all(keys: KeyOperations) -> dict[str, KeyCheck]:
    checker = KeyChecker(keys.settings, keys.redactor, per_second=_PER_SECOND)
    try:
        return {key.id: check async for key, check in check_all(checker, keys.settings.keys, lambda key: key)}
    finally:
        await checker.close()


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
    print_openai_columns(out, shown, problems)
    if not everything and len(unusable) > len(shown):
        out.print(f"... and {len(unusable) - len(shown):,} more unusable keys; --all shows every key")
    summary = _summary(rows)
    if not everything:
        for title in ("states", "answers"):
            counts = ", ".join(f"{count:,} {word}" for word, count in sorted(summary[title].items()))
            out.print(f"{title}: {counts}")
    out.print(f"{summary['usable']} of {len(rows)} keys usable")


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
