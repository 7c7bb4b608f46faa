"""`quotapool keys import`: puts a file of keys into the vault, with a progress bar and a report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from quotapool.cli import tables
from quotapool.cli.access import command_actor, run_with_keys
from quotapool.cli.errors import fail
from quotapool.cli.keys_bulk import kept_if_cut
from quotapool.cli.options import JsonOption, NoCheckOption, ReplaceOption
from quotapool.cli.progress import shown_progress
from quotapool.domain.counted import counted
from quotapool.operators.importer import Importer, Report
from quotapool.operators.key_file import BadFile, Line, read
from quotapool.operators.keys import KeyOperations
from quotapool.settings import Settings

_SHOWN = 20  # failed lines on the terminal; the report has all


def run(
    settings: Settings,
    file: Annotated[Path, typer.Argument(help="One secret a line, or CSV with a first line of names.")],
    *,
    no_check: NoCheckOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check the keys, and add none.")] = False,
    replace: ReplaceOption = False,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="How many are checked at the same time.")] = 64,
    per_second: Annotated[float, typer.Option(min=0.1, help="How many are checked in a second, at most.")] = 200.0,
    json: JsonOption = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the complete report into this file.", show_default=False)
    ] = None,
) -> int:
    """Add the keys of a file, thousands at once; may be repeated.

    Exit code 1 if a line's key is not in the pool afterwards.
    """
    if report is not None and not report.parent.is_dir():
        return fail(f"{report}: there is no such directory")
    try:
        found = list(_lines(file))  # once: a pipe cannot be read again
    except (BadFile, UnicodeDecodeError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return fail(f"{file}: {error if isinstance(error, BadFile) else why}")
    if not (total := len(found)):
        return fail(f"{file}: contains no key")

    async def command(keys: KeyOperations) -> int:
        lines = itertools.count(1)
        importer = Importer(
            keys,
            check=not no_check,
            dry_run=dry_run,
            replace=replace,
            on_progress=lambda: tell(next(lines), total),
            actor=command_actor().name,
        )

        def so_far() -> tuple[int, dict[str, list[Any]]]:
            counts = importer.report.counts
            return counts.total(), {word: [None, count] for word, count in sorted(counts.items())}

        async with AsyncExitStack() as stack:
            if not dry_run:
                await stack.enter_async_context(kept_if_cut(keys, "import_keys", total, "lines", so_far))
            tell = stack.enter_context(shown_progress("importing keys" if no_check else "checking keys", total))
            done = await importer.run(found, at_once=at_once, per_second=per_second)
        if json:
            tables.print_json(done.as_json())
        else:
            _print(done, report)
        if report is not None:
            try:
                report.write_bytes(msgspec.json.format(msgspec.json.encode(done.as_json())) + b"\n")
            except OSError as error:
                return fail(f"{report}: {error.strerror or error}")
        return 1 if done.bad else 0

    return run_with_keys(settings, command)


def _lines(file: Path) -> Iterator[Line]:
    with file.open(encoding="utf-8") as lines:
        yield from read(lines)


def _print(report: Report, report_file: Path | None) -> None:
    out = Console(highlight=False)
    head = "would be: " if report.dry_run else ""
    counts = ", ".join(f"{count:,} {word}" for word, count in sorted(report.counts.items()))
    out.print(f"{counted(report.lines, 'line')}: {head}{counts}", markup=False)
    for bad in sorted(report.bad, key=lambda outcome: outcome.line)[:_SHOWN]:
        name = f" ({bad.id})" if bad.id else ""
        out.print(f"  line {bad.line}{name}: {bad.result}: {bad.why}", markup=False, soft_wrap=True)
    if len(report.bad) > _SHOWN:
        where = f"all are in {report_file}" if report_file else "--report FILE has all"
        out.print(f"  ... and {len(report.bad) - _SHOWN:,} more; {where}", markup=False)
