"""`quotapool usage`: what the pool spent, for whom and on what, and how exactly that is known."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import compress
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.errors import fail
from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import DAYS_KEPT, Dimension, SpendStore
from quotapool.money.spent import Spent
from quotapool.settings import Settings
from quotapool.store.store import Store

By = Literal["account", "key", "model", "client", "day"]
BY: Final[tuple[By, ...]] = ("account", "key", "model", "client", "day")
NOT_SEEN: Final = (
    "storage (files, vector stores, containers)",
    "tools' own fees (file search, code interpreter, web searches that answers do not count)",
    "fine-tuning jobs",
    "batch jobs",
    "background responses after their start",
    "WebRTC audio",
)
_COLUMNS: Final = (
    *("usd", "exact_usd", "estimated_usd", "probe_usd", "unpriced_requests"),
    *("requests", "prompt_tokens", "cached_tokens", "completion_tokens"),
)
_HEADINGS: Final = ("USD", "exact", "estimated", "probes", "unpriced", "requests", "prompt", "cached", "completion")
_MIN_WIDTH: Final = 120
_NO_NAME: Final[dict[By, str]] = {"account": "-", "key": "-", "model": "-", "client": "anonymous", "day": "-"}
_DAYS: Final = re.compile(r"(\d{1,4})d")


class Report(msgspec.Struct, frozen=True):
    """Rows by name, the most expensive first (days in order); both days, in UTC, are included."""

    by: By
    since: date
    until: date
    rows: list[tuple[str, Spent]]
    total: Spent
    month: Spent
    unpriced: list[str]
    prices: list[str]


def since_day(text: str, today: date) -> date | None:
    """The first day of `2026-11-01`, `7d` (today and the six before) or `month`; None if it is none of these."""
    if text == "month":
        return today.replace(day=1)
    if days := _DAYS.fullmatch(text):
        return today - timedelta(days=max(1, int(days[1])) - 1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def run(settings: Settings, *, by: str, since: str, as_csv: bool, as_json: bool) -> int:
    """Print the report. Exit code 0; 2 if an option is invalid or the store cannot be reached."""
    now = datetime.now(UTC)
    first = since_day(since, now.date())
    if by not in BY:
        return fail(f"--by {by}: must be one of {', '.join(BY)}")
    if first is None:
        return fail(f"--since {since}: must be a day such as 2026-11-01, a number of days such as 7d, or month")
    if first > now.date():
        return fail(f"--since {since}: that day is in the future (today is {now.date()} in UTC)")
    first = max(first, now.date() - timedelta(days=DAYS_KEPT))

    async def command(store: Store) -> int:
        report = await gather(SpendStore(store, settings.pool), by, first, now.date())
        if as_json:
            tables.print_json(_document(report))
        elif as_csv:
            _write_csv(report)
        else:
            _show(report, settings.spend.time_zone)
        return 0

    return run_with_store(settings, command)


async def gather(store: SpendStore, by: By, since: date, until: date) -> Report:
    """Read what was spent. Raises StoreLost."""
    dimension: Dimension = "pool" if by == "day" else by
    rows: dict[str, Spent] = {}
    total, month = Spent(), Spent()
    for day, names in (await store.totals(dimension, since, until)).items():
        for name, spent in names.items():
            if by == "day":
                name = day.isoformat()  # noqa: PLW2901 - the pool has only one name
            rows.setdefault(name or _NO_NAME[by], Spent()).add(spent)
            total.add(spent)
    for names in (await store.totals("pool", until.replace(day=1), until)).values():
        for spent in names.values():
            month.add(spent)
    unpriced = {
        name
        for names in (await store.totals("model", since, until)).values()
        for name, spent in names.items()
        if spent.unpriced_requests
    }
    ordered = sorted(rows.items(), key=lambda row: row[0] if by == "day" else (-row[1].total, row[0]))
    return Report(by, since, until, ordered, total, month, sorted(unpriced), await store.versions(since, until))


def _usd(pico: int) -> Decimal:
    return (Decimal(pico) / PICO).normalize() + Decimal(0)


def _values(spent: Spent) -> list[Decimal | int]:
    money = (spent.total, spent.exact, spent.estimated, spent.probes)
    tokens = (spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens)
    return [*map(_usd, money), spent.unpriced_requests, spent.requests, *tokens]


def _document(report: Report) -> dict[str, object]:
    def row(spent: Spent) -> dict[str, float | int]:
        values = (float(value) if isinstance(value, Decimal) else value for value in _values(spent))
        return dict(zip(_COLUMNS, values, strict=True))

    return {
        "by": report.by,
        "since": report.since,
        "until": report.until,
        "rows": [{report.by: name, **row(spent)} for name, spent in report.rows],
        "total": row(report.total),
        "month_to_date_usd": float(_usd(report.month.total)),
        "unpriced": report.unpriced,
        "price_data": report.prices,
        "not_seen": NOT_SEEN,
    }


def _write_csv(report: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((report.by, *_COLUMNS))
    for name, spent in report.rows:
        values = (f"{value:f}" if isinstance(value, Decimal) else value for value in _values(spent))
        writer.writerow((_harmless(name), *values))


def _harmless(name: str) -> str:
    """A spreadsheet evaluates what begins like a formula, and callers choose the names of models."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@", "\t"} else name


def _show(report: Report, zone: str) -> None:
    console = tables.console(_MIN_WIDTH)  # in a narrow terminal, wrapped numbers can be read, cut ones cannot
    table = tables.table(report.by)
    shown = [any(column) for column in zip(*(_values(spent) for _, spent in report.rows), strict=True)]
    for heading in compress(_HEADINGS, shown):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, spent in report.rows:
        table.add_row(name, *compress(_cells(spent), shown))
    if len(report.rows) > 1:
        table.add_section()
        table.add_row("all", *compress(_cells(report.total), shown))
    if report.rows:
        console.print(table)
    else:
        console.print(f"nothing was spent since {report.since}")
    _print_notes(report, zone, partial(console.print, soft_wrap=True))


def _print_notes(report: Report, zone: str, line: Callable[[str], None]) -> None:
    """What the sums include, and what they do not."""
    begins = "" if zone == "UTC" else f", each from {_begin(report.until, zone)} in {zone}"
    line(f"UTC days {report.since} to {report.until}{begins}; this month: ${_usd(report.month.total):,.2f}")
    if report.prices:
        line(f"prices: {'; '.join(report.prices)}")
    if report.unpriced:
        line(f"no known price, not in the sums: {_several(report.unpriced)}; see the option prices:")
    line(f"not seen here: {'; '.join(NOT_SEEN)}")


def _cells(spent: Spent) -> list[str]:
    return [f"{value:,.6f}" if isinstance(value, Decimal) and value else f"{value:,}" for value in _values(spent)]


def _begin(day: date, zone: str) -> str:
    return f"{datetime.combine(day, time(), UTC).astimezone(ZoneInfo(zone)):%H:%M}"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
