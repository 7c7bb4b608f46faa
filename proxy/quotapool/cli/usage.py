"""`quotapool usage`: what the pool used and spent, for whom, on what and when, and how exactly that is known."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import compress
from typing import Final

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.errors import fail
from quotapool.cli.progress import shown_progress
from quotapool.money.question import BadQuestionError, question, shown_zone
from quotapool.money.rollups import DAY, OTHER
from quotapool.money.spend_store import SpendStore
from quotapool.money.usage_report import (
    NOT_SEEN,
    NUMBERS,
    Report,
    Row,
    document,
    labelled,
    labels,
    numbers,
    report,
    usd,
)
from quotapool.settings import Settings
from quotapool.store.store import Store

_HEADINGS: Final = (
    *("USD", "exact", "estimated", "probes", "unpriced", "requests", "prompt", "cached", "completion"),
    *("refused", "refusals"),
)
_MIN_WIDTH: Final = 120


def run(
    settings: Settings,
    *,
    by: str,
    since: str,
    until: str | None,
    every: str | None,
    only: str | None = None,
    top: int | None = None,
    as_csv: bool,
    as_json: bool,
) -> int:
    """Print the report. Exit code 0; 2 if an option is invalid or the store cannot be reached."""
    now = datetime.now(UTC)

    async def command(store: Store) -> int:
        with shown_progress("adding up"):
            found = await report(SpendStore(store, settings.pool), asked, now)
        if as_json:
            tables.print_json(document(found))
        elif as_csv:
            _write_csv(found)
        else:
            _show(found)
        return 0

    try:
        asked = question(by, since, until, every, zone=settings.spend.time_zone, now=now, only=only, top=top)
        return run_with_store(settings, command)
    except BadQuestionError as error:
        return fail(f"--{error.option}: {error}")


def _write_csv(found: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*labels(found.question), *NUMBERS, "refused_requests", "refusals"))
    for row in found.rows:
        values = (f"{value:f}" if isinstance(value, Decimal) else value for value in numbers(row.spent))
        refused = ("", "") if row.refusals is None else (row.refused, _refusals(row.refusals))
        writer.writerow((*map(_harmless, labelled(found.question, row)), *values, *refused))


def _harmless(name: str) -> str:
    """A spreadsheet evaluates what begins like a formula, and callers choose the names of models."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@", "\t"} and name != "-" else name


def _show(found: Report) -> None:
    console = tables.console(_MIN_WIDTH)  # in a narrow terminal, wrapped numbers can be read, cut ones cannot
    table = tables.table(*labels(found.question))
    shown = [any(column) for column in zip(*map(_values, found.rows), strict=True)]
    for heading in compress(_HEADINGS, shown):
        table.add_column(heading, justify="left" if heading == "refusals" else "right", no_wrap=True)
    for row in found.rows:
        table.add_row(*_labels(found, row), *compress(_cells(row), shown))
    columns = len(labels(found.question))
    if len(found.rows) > 1:
        table.add_section()
        table.add_row(*["all", *[""] * (columns - 1)][:columns], *compress(_cells(found.total), shown))
    if found.rows:
        console.print(table)
    else:
        console.print(f"nothing was used since {_moment(found, found.question.since)}")
    narrow = tables.console()
    _print_notes(found, partial(narrow.print, soft_wrap=not narrow.is_terminal))


def _print_notes(found: Report, line: Callable[[str], None]) -> None:
    """What the sums include, and what they do not."""
    asked = found.question
    month = f"{'this month' if asked.only is None else 'the pool this month'}: ${usd(found.month.total):,.2f}"
    if asked.in_days:
        last = (asked.until - DAY.size).date()
        begins = (
            ""
            if str(asked.zone) == "UTC"
            else f", each from {asked.since.astimezone(asked.zone):%H:%M} in {asked.zone}"
        )
        line(f"UTC days {asked.since.date()} to {last}{begins}; {month}")
    else:
        line(f"{_moment(found, asked.since)} to {_moment(found, asked.until)}, in {shown_zone(asked)}; {month}")
    if any(OTHER in row.names for row in found.rows):
        beyond = "" if asked.top is None else f"names beyond the {asked.top} that cost most; "
        line(f"{OTHER}: {beyond}names beyond those that are kept apart in each minute, hour and day; unanswered models")
    if found.prices:
        line(f"prices: {'; '.join(found.prices)}")
    if found.unpriced:
        line(f"no known price, not in the sums: {_several(found.unpriced)}; see the option prices:")
    line(f"not seen here: {'; '.join(NOT_SEEN)}")


def _labels(found: Report, row: Row) -> Sequence[str]:
    if row.start is None or found.question.per_day:
        return labelled(found.question, row)
    return (_moment(found, row.start), *row.names)


def _moment(found: Report, moment: datetime) -> str:
    return f"{moment.astimezone(shown_zone(found.question)):%Y-%m-%d %H:%M}"


def _values(row: Row) -> list[Decimal | int | str]:
    """Of all columns with _HEADINGS."""
    return [*numbers(row.spent), row.refused or 0, _refusals(row.refusals or {})]


def _cells(row: Row) -> list[str]:
    return [
        f"{value:,.6f}" if isinstance(value, Decimal) and value else value if isinstance(value, str) else f"{value:,}"
        for value in _values(row)
    ]


def _refusals(refusals: Mapping[str, int]) -> str:
    """`client_limit rpm: 3; queue_full: 1`, the most frequent first."""
    ordered = sorted(refusals.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{why}: {requests}" for why, requests in ordered)


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
