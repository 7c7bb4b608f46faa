"""Tables as all commands show them: light, readable in 80 columns, and never cut or folded in a pipe."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_PIPE: Final = 2_000  # columns without a terminal: `quotapool keys list | grep` finds whole words
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def console(at_least: int = 0) -> Console:
    """Standard output, without markup: callers choose the names of models."""
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = _PIPE
    out.width = max(out.width, at_least)
    return out


def terminal_width() -> int:
    """Columns of the terminal that standard output is, as it is now; 0: it is none."""
    out = Console()
    return out.width if out.is_terminal else 0


def table(*titles: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """An empty table; the columns in `right` are numbers. Long cells are folded, so that nothing is lost."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left", pad_edge=False)
    numbers = frozenset(right)
    for heading in titles:
        if heading in numbers:
            made.add_column(heading, justify="right", no_wrap=True)
        else:
            made.add_column(heading, overflow="fold")
    return made


def print_json(document: object) -> None:
    """The result of a command, for programs."""
    print(msgspec.json.encode(document).decode())


def moment(at: float | None) -> str:
    """A time as `2026-11-22 20:01 UTC`; "" if there is none."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" if at else ""


def span(seconds: float) -> str:
    """A length of time in its largest unit: `40 s`, `5 min`, `3 h`, `9 d`."""
    whole = max(0, int(seconds))
    size, unit = next(((size, unit) for size, unit in _UNITS if whole >= size), _UNITS[-1])
    return f"{whole // size} {unit}"
