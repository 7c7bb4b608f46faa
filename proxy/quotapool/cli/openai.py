"""`quotapool openai`: the limits of projects, and our spend beside OpenAI's costs, with an admin key."""

from __future__ import annotations

import csv
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import aiohttp
import msgspec
import typer

from quotapool.cli import tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.errors import fail, warn
from quotapool.cli.options import JsonOption, with_settings
from quotapool.cli.progress import shown_progress
from quotapool.domain.wallet import PICO
from quotapool.money.question import since_day
from quotapool.openai_admin.collect import Collected, Collector, connector
from quotapool.openai_admin.limits import fragment
from quotapool.openai_admin.reconcile import KeyDay, Reconciliation
from quotapool.operators.keys import KeyOperations
from quotapool.operators.reconciliation import NO_ADMIN_KEY, ask, compared
from quotapool.settings import Settings
from quotapool.store.store import Store

app = typer.Typer()

INCOMPLETE: Final = 1
_COLUMNS: Final = (
    "day", "account", "key", "ours_usd", "estimated_usd", "theirs_usd", "difference_usd",
    "difference_percent", "our_requests", "their_requests",
)  # fmt: skip
_LIMITS: Final = {
    "RPM": "max_requests_per_1_minute",
    "TPM": "max_tokens_per_1_minute",
    "IPM": "max_images_per_1_minute",
    "RPD": "max_requests_per_1_day",
    "batch TPD": "batch_1_day_max_input_tokens",
}


@app.command("limits")
@with_settings
def limits(
    settings: Settings,
    *,
    write: Annotated[bool, typer.Option("--write", help="As YAML for the configuration file.")] = False,
    json: JsonOption = False,
) -> int:
    """Show the rate limits of each account's project, by model."""

    async def command(settings: Settings, collector: Collector, store: Store) -> int:
        with shown_progress("reading limits at OpenAI"):
            answers = await ask(settings, collector, store)
        if write:
            print(fragment(settings, answers.limits), end="")
        elif json:
            rows = {account: msgspec.to_builtins(limits) for account, limits in answers.limits.items()}
            tables.print_json({"limits": rows, "problems": answers.problems})
        else:
            _print_limits(answers)
        _warn_of(answers.problems, quiet=json)
        if not answers.limits and not answers.problems:
            _warn_of(["no account has a `project: proj_...` under accounts:, so there is nothing to ask for"])
        return 0 if answers.limits and not answers.problems else INCOMPLETE

    return _run(settings, command)


@app.command("reconcile")
@with_settings
def reconciliation(
    settings: Settings,
    *,
    since: Annotated[str, typer.Option(help="First day (UTC): 2026-11-01, 7d (with today), or month.")] = "7d",
    until: Annotated[str | None, typer.Option(help="Last day (UTC).", show_default="today")] = None,
    json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
) -> int:
    """Show our spend beside OpenAI's costs, by day and key, and what can explain the difference."""
    today = datetime.now(UTC).date()
    first, last = since_day(since, today), today if until is None else since_day(until, today)
    if first is None or last is None:
        return fail("--since and --until take a day such as 2026-11-01 (UTC), 7d, or month")
    if first > last:
        return fail("--since is later than --until")

    async def command(settings: Settings, collector: Collector, store: Store) -> int:
        with shown_progress("reading costs at OpenAI"):
            result, answers = await compared(settings, collector, store, first, last, today)
        if json:
            tables.print_json(_document(result, first, last, answers))
        elif as_csv:
            writer = csv.DictWriter(sys.stdout, _COLUMNS)
            writer.writeheader()
            writer.writerows(_row(line) for line in result.rows)
        else:
            _print_reconciliation(result)
        _warn_of(answers.problems, quiet=json)
        return INCOMPLETE if answers.problems else 0

    return _run(settings, command)


def _run(settings: Settings, command: Callable[[Settings, Collector, Store], Awaitable[int]]) -> int:
    if not settings.admin_keys:
        return fail(NO_ADMIN_KEY)

    async def with_keys(keys: KeyOperations) -> int:
        async with aiohttp.ClientSession(connector=connector(settings.ca_file)) as http:
            return await command(keys.settings, Collector(http), keys.overview.ledger.store)

    return run_with_keys(settings, with_keys)


def _row(line: KeyDay) -> dict[str, Any]:
    """A line of `reconcile --json` and `--csv`; USD."""
    return {
        "day": line.day.isoformat(),
        "account": line.account,
        "key": line.key,
        "ours_usd": line.ours / PICO,
        "estimated_usd": line.estimated / PICO,
        "theirs_usd": _usd(line.theirs),
        "difference_usd": _usd(line.difference),
        "difference_percent": line.percent,
        "our_requests": line.our_requests,
        "their_requests": line.their_requests,
    }


def _document(result: Reconciliation, first: date, last: date, answers: Collected) -> dict[str, Any]:
    return {
        "since": first.isoformat(),
        "until": last.isoformat(),
        "total": {
            "ours_usd": result.ours / PICO,
            "theirs_usd": result.theirs / PICO,
            "difference_usd": result.difference / PICO,
            "difference_percent": result.percent,
            "not_compared_usd": result.not_compared / PICO,
        },
        "lines": [_row(line) for line in result.rows],
        "reasons": result.reasons,
        "problems": answers.problems,
    }


def _print_reconciliation(result: Reconciliation) -> None:
    numbers = ("ours", "OpenAI's", "difference", "%")
    table = tables.table("day", "account", "key", *numbers, right=numbers)
    for line in result.rows:
        table.add_row(
            f"{line.day}",
            line.account or "?",
            line.key or "(none of ours)",
            _shown(line.ours),
            _shown(line.theirs),
            _shown(line.difference),
            "" if line.percent is None else f"{line.percent:+.2f}",
        )
    percent = "" if result.percent is None else f"{result.percent:+.2f}"
    table.add_section()
    table.add_row("total", "", "", _shown(result.ours), _shown(result.theirs), _shown(result.difference), percent)
    console = tables.console()
    console.print(table)
    if result.not_compared:
        console.print(f"not compared: {_shown(result.not_compared)} of accounts whose costs OpenAI did not report")
    for reason in result.reasons:
        console.print(f"- {reason}")


def _print_limits(answers: Collected) -> None:
    """Kinds of limit that no project has get no column; the project is below its account's name."""
    limits = [
        (account, row)
        for account, rows in sorted(answers.limits.items())
        for row in sorted(rows, key=lambda row: row.model)
    ]
    shown = {
        title: [getattr(row, name) for _, row in limits]
        for title, name in _LIMITS.items()
        if any(getattr(row, name) is not None for _, row in limits)
    }
    table = tables.table("account", "model", *shown, right=shown)
    names = {account: iter((account, answers.accounts[account].project)) for account in answers.limits}
    for number, (account, row) in enumerate(limits):
        values = (column[number] for column in shown.values())
        table.add_row(next(names[account], ""), row.model, *("" if value is None else f"{value:,}" for value in values))
    if limits:
        tables.console().print(table)


def _usd(amount: int | None) -> float | None:
    return None if amount is None else amount / PICO


def _shown(amount: int | None) -> str:
    return "" if amount is None else f"{amount / PICO:,.6f}"


def _warn_of(problems: list[str], *, quiet: bool = False) -> None:
    for problem in problems if not quiet else ():
        warn(problem)
