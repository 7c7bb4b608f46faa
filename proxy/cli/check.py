"""`quotapool check`: ask upstream about each key, ask the store what is known of it, say what to do next.

Exit codes: 0 every key is valid and active; 1 at least one is not; 2 it could not be found out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.app.asking import Asked, Asker, ask_all
from proxy.app.desk import LOCKED, Desk, next_step
from proxy.cli.at_desk import run_at_desk
from proxy.cli.credit import credit_lines
from proxy.cli.keys import state_word
from proxy.cli.said import add_said, print_said
from proxy.domain.states import State
from proxy.settings import Settings

_PER_SECOND: Final = 500.0
_FEW: Final = 30  # keys that are all shown
_MOST_SHOWN: Final = 100  # bad ones, without --all
_DIMENSIONS: Final = ("rpm", "tpm", "rpd", "tpd", "ipm")
_NOT_ASKED: Final = Asked(False, "not asked", "its secret is locked")


def run(settings: Settings, *, as_json: bool, show_all: bool = False) -> int:
    """Exit code 0 only where every key is valid and active."""

    async def command(desk: Desk) -> int:
        rows, asked = await asyncio.gather(desk.rows(), _ask_all(desk))
        for row in rows:
            heard = asked.get(row["id"], _NOT_ASKED)
            row |= {"valid": heard.ok, "answer": heard.word, "detail": heard.detail}
            row["usable"] = heard.ok and row["state"] == State.ACTIVE.value
            row["next"] = row["next"] if row["state"] == LOCKED else next_step(row, heard)
        problems = await add_said(desk.settings, desk.overview.ledger.store, rows)
        if as_json:
            print(msgspec.json.encode({"keys": rows, "summary": _summary(rows), "problems": problems}).decode())
        else:
            _print(rows, problems, show_all=show_all)
        return 0 if all(row["usable"] for row in rows) else 1

    return run_at_desk(settings, command)


async def _ask_all(desk: Desk) -> dict[str, Asked]:
    asker = Asker(desk.settings, desk.redactor, per_second=_PER_SECOND)
    try:
        return {key.id: asked async for key, asked in ask_all(asker, desk.settings.keys, lambda key: key)}
    finally:
        await asker.close()


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`usable` of `keys`, and how many there are of each state and each answer of upstream."""
    return {
        "keys": len(rows),
        "usable": sum(row["usable"] for row in rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "answers": dict(Counter(row["answer"] for row in rows)),
    }


def _print(rows: list[dict[str, Any]], problems: list[str], *, show_all: bool) -> None:
    out = Console()
    bad = [row for row in rows if not row["usable"]]
    everything = show_all or len(rows) <= _FEW
    shown = rows if everything else bad[:_MOST_SHOWN]
    if shown:
        out.print(_table(shown))
    print_said(out, shown, problems)
    if not everything and len(bad) > len(shown):
        out.print(f"... and {len(bad) - len(shown)} more that are not usable; --all shows every key")
    summary = _summary(rows)
    if not everything:
        for title in ("states", "answers"):
            counts = ", ".join(f"{count:,} {word}" for word, count in sorted(summary[title].items()))
            out.print(f"{title}: {counts}", markup=False)
    out.print(f"{summary['usable']} of {len(rows)} keys usable")


def _table(rows: list[dict[str, Any]]) -> Table:
    titles = ("key", "account", "state", "upstream says", "left (per model)", "what to do")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        colour = "green" if row["usable"] else "red"
        state = state_word(row) + (f"\n{row['reason']}" if row.get("reason") else "")
        table.add_row(
            row["id"],
            _owner(row),
            f"[{colour}]{state}[/]",
            row["answer"],
            "\n".join([*credit_lines(row), *_left(row)]),
            row["next"],
        )
    return table


def _owner(row: dict[str, Any]) -> str:
    return f"{row['account']}\n({row['organization']})" if row.get("organization") else str(row["account"])


def _left(row: dict[str, Any]) -> list[str]:
    lines = []
    for budget in row["budgets"]:
        parts = [
            f"{name} {max(0, budget[name]['remaining']):,.0f}/{budget[name]['limit']:,.0f}"
            for name in _DIMENSIONS
            if name in budget
        ]
        more = [
            f"{name}: upstream allows {budget[name]['learned']:,.0f}"
            for name in _DIMENSIONS
            if name in budget and (budget[name]["learned"] or 0) > budget[name]["limit"]
        ]
        parts += more
        cooling = f" (waits {budget['cooling_s']:.0f} s)" if budget["cooling_s"] else ""
        lines.append(f"{budget['model']}: {', '.join(parts) or 'no limits known'}{cooling}")
    return lines
