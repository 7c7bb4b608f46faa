"""How `quotapool plan` shows its answer: tables of at most 80 columns, and what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from quotapool.cli import tables
from quotapool.plan.report import Figures, FullRow, LimitRow, NameRow, PlanReport

_FEW: Final = 8
_LONGEST: Final = 34  # characters of a name in a table
_ARROW: Final = "→"


def show(found: PlanReport) -> None:
    console = tables.console()
    line = partial(console.print, soft_wrap=not console.is_terminal)
    line(f"{found.record}.")
    line(f"Planned: {' '.join(found.changes)}" if found.changes else "Nothing is changed: this is the pool as it is.")
    columns = [found.recorded, found.today] + ([found.planned] if found.planned is not None else [])
    titles = ("", "recorded", "today", "planned")[: len(columns) + 1]
    table = tables.table(*titles, right=titles[1:])
    for name, cell in _ROWS:
        table.add_row(name, *(cell(one) for one in columns))
    for code in dict.fromkeys(code for one in columns for code in one.refusals):
        table.add_row(f"  {code}", *(f"{one.refusals.get(code, 0):,}" for one in columns))
    console.print(table)
    is_pair = found.planned is not None
    _limits(console, found.limits, is_pair=is_pair)
    _names(console, "client", found.clients, is_pair=is_pair)
    _names(console, "model", found.models, is_pair=is_pair)
    _fullest(console, found.fullest, is_pair=is_pair)
    _accounts(console, found, is_pair=is_pair)
    if found.assumed:
        line("Assumed:")
        for one in found.assumed:
            line(f"- {one}")
    if found.left_out:
        line("Left out: " + "; ".join(f"{count:,} {why}" for why, count in found.left_out.items()))


def seconds(value: float | None) -> str:
    """`0`, `12 ms`, `3.4 s`, `65 s`; `-`: not known."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if value < 1:
        return f"{max(1.0, value * 1000):.0f} ms"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _share(one: Figures) -> str:
    if not one.refused:
        return "0"
    return f"{one.refused:,} ({one.refused / one.requests:.1%})"


_ROWS: Final[Sequence[tuple[str, Callable[[Figures], str]]]] = (
    ("requests", lambda one: f"{one.requests:,}"),
    ("waited in the queue", lambda one: "-" if one.waited is None else f"{one.waited:,}"),
    ("wait, half of all (p50)", lambda one: seconds(one.wait_p50_s)),
    ("wait, 99 of 100 (p99)", lambda one: seconds(one.wait_p99_s)),
    ("longest wait", lambda one: seconds(one.wait_longest_s)),
    ("cost", lambda one: f"${one.usd:,.2f}"),
    ("refused", _share),
)


def _pair(values: Sequence[Any], shown: Callable[[Any], str], *, is_pair: bool) -> str:
    """`12 → 3`; one figure where nothing is changed."""
    before, after = map(shown, values)
    return f"{before} {_ARROW} {after}" if is_pair else before


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _name(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _limits(console: Any, rows: Sequence[LimitRow], *, is_pair: bool) -> None:
    if not rows:
        return
    right = ("waited", "refused", "hours")
    table = tables.table("limit that binds", *right, right=right)
    for row in rows[:_FEW]:
        table.add_row(
            _name(row.limit), *(_pair(v, _count, is_pair=is_pair) for v in (row.waited, row.refused, row.hours))
        )
    console.print(table)


def _names(console: Any, what: str, rows: Sequence[NameRow], *, is_pair: bool) -> None:
    if len(rows) < 2:
        return
    right = ("requests", "refused", "p99")
    table = tables.table(what, *right, right=right)
    for row in rows[:_FEW]:
        counts = (_pair(values, _count, is_pair=is_pair) for values in (row.requests, row.refused))
        table.add_row(_name(row.name), *counts, _pair(row.wait_p99_s, seconds, is_pair=is_pair))
    if len(rows) > _FEW:
        table.add_row(f"and {len(rows) - _FEW:,} more (--json)", "", "", "")
    console.print(table)


def _fullest(console: Any, rows: Sequence[FullRow], *, is_pair: bool) -> None:
    if not rows:
        return
    right = ("in its fullest minute", "on the whole")
    table = tables.table("how full a limit is", *right, right=right)
    for row in rows[:_FEW]:
        table.add_row(_name(row.limit), *(_pair(v, _part, is_pair=is_pair) for v in (row.fullest, row.share)))
    console.print(table)


def _accounts(console: Any, found: PlanReport, *, is_pair: bool) -> None:
    if len(found.accounts) < 2:
        return
    table = tables.table("account", "cost", right=("cost",))
    for name, values in list(found.accounts.items())[:_FEW]:
        table.add_row(_name(name), _pair(values, _dollars, is_pair=is_pair))
    if len(found.accounts) > _FEW:
        table.add_row(f"and {len(found.accounts) - _FEW:,} more (--json)", "")
    console.print(table)
