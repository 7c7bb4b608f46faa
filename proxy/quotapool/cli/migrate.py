"""`quotapool migrate`: takes over the keys and clients of another proxy; a report says what was not taken, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console

from quotapool.cli import tables
from quotapool.cli.access import command_actor, record, run_with_keys
from quotapool.cli.cut_short import said_if_cut
from quotapool.cli.errors import fail, warn
from quotapool.cli.options import JsonOption, NoCheckOption, with_settings
from quotapool.cli.progress import shown_progress
from quotapool.migrate.apply import Migration, Moved
from quotapool.migrate.database import Database, file_of, has_password, is_database_file, opened, resolved
from quotapool.migrate.found import SourceError
from quotapool.migrate.gpt_load import GptLoad, KeyLines
from quotapool.migrate.litellm import LiteLlm
from quotapool.migrate.litellm_tokens import LiteLlmTokens
from quotapool.migrate.new_api import NewApi
from quotapool.migrate.one_api import OneApi
from quotapool.migrate.program import Program, check_kind
from quotapool.operators.keys import KeyOperations
from quotapool.settings import Settings

app = typer.Typer()
_SHOWN: Final = 20  # groups of what was not taken; the report file has all
_NAMED: Final = 3  # of each group

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Its SQLite file, or the address of its MySQL or PostgreSQL database; env:NAME: as that variable says.",
        show_default=False,
    ),
]
GroupOption = Annotated[list[str] | None, typer.Option("--group", help="Only this group; repeatable.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read, check and report, and store nothing.")]
ReportOption = Annotated[Path | None, typer.Option(help="A file for the complete report.", show_default=False)]
AtOnceOption = Annotated[int, typer.Option(min=1, max=1000, help="Checks at the same time.")]
PerSecondOption = Annotated[float, typer.Option(min=0.1, help="Checks a second, at most.")]


@app.command("gpt-load")
@with_settings
def gpt_load(
    settings: Settings,
    source: SourceArgument,
    *,
    encryption_key_env: Annotated[
        str | None, typer.Option(help="The variable that has gpt-load's ENCRYPTION_KEY.", show_default=False)
    ] = None,
    group: GroupOption = None,
    dry_run: DryRunOption = False,
    no_check: NoCheckOption = False,
    report: ReportOption = None,
    json: JsonOption = False,
    at_once: AtOnceOption = 64,
    per_second: PerSecondOption = 200.0,
) -> int:
    """Keys, model redirects and proxy keys of gpt-load 1.x; or its export of keys, a text file."""

    @contextmanager
    def program() -> Iterator[Program]:
        key = _variable(encryption_key_env)
        place = resolved(source)
        file = file_of(place)
        if file is not None and file.is_file() and not is_database_file(file):
            yield KeyLines(file)
            return
        with opened(place) as database:
            check_kind(database, "gpt-load")
            yield GptLoad(database, key, frozenset(group or ()))

    _warn_of_password(source)
    return _run(
        settings, "gpt-load", program, dry_run, no_check, report, json=json, at_once=at_once, per_second=per_second
    )


def _of_channels(name: str, reader: Callable[[Database, frozenset[str]], Program], about: str) -> None:
    """The command of one of two programs with one past."""

    def command(
        settings: Settings,
        source: SourceArgument,
        *,
        group: GroupOption = None,
        dry_run: DryRunOption = False,
        no_check: NoCheckOption = False,
        report: ReportOption = None,
        json: JsonOption = False,
        at_once: AtOnceOption = 64,
        per_second: PerSecondOption = 200.0,
    ) -> int:
        @contextmanager
        def program() -> Iterator[Program]:
            with opened(resolved(source)) as database:
                check_kind(database, name)
                yield reader(database, frozenset(group or ()))

        _warn_of_password(source)
        return _run(
            settings, name, program, dry_run, no_check, report, json=json, at_once=at_once, per_second=per_second
        )

    command.__doc__ = about
    app.command(name)(with_settings(command))


_of_channels("one-api", OneApi, "Channels, users and tokens of one-api. Clients keep their tokens.")
_of_channels("new-api", NewApi, "Channels, users and tokens of new-api. Clients keep their tokens.")


@app.command("litellm")
@with_settings
def litellm(
    settings: Settings,
    source: Annotated[Path, typer.Argument(help="Its config.yaml.", show_default=False)],
    *,
    database: Annotated[
        str | None,
        typer.Option(help="The address of its PostgreSQL database, for virtual keys; env:NAME.", show_default=False),
    ] = None,
    sample_env: Annotated[
        str | None,
        typer.Option(help="The variable that has one virtual key, as its client sends it.", show_default=False),
    ] = None,
    dry_run: DryRunOption = False,
    no_check: NoCheckOption = False,
    report: ReportOption = None,
    json: JsonOption = False,
    at_once: AtOnceOption = 64,
    per_second: PerSecondOption = 200.0,
) -> int:
    """Deployments of LiteLLM's config.yaml, its master key, and with --database its virtual keys."""

    @contextmanager
    def program() -> Iterator[Program]:
        with ExitStack() as stack:
            tokens = None
            if database is not None:
                tables_ = stack.enter_context(opened(resolved(database)))
                check_kind(tables_, "litellm")
                tokens = LiteLlmTokens(tables_, _variable(sample_env))
            yield LiteLlm(source, os.environ, tokens)

    if database is not None:
        _warn_of_password(database)
    return _run(
        settings, "litellm", program, dry_run, no_check, report, json=json, at_once=at_once, per_second=per_second
    )


def _variable(name: str | None) -> str:
    """Raises SourceError."""
    return "" if name is None else resolved(f"env:{name}")


def _warn_of_password(source: str) -> None:
    if has_password(source):
        warn("the address is in the list of processes, where others can read its password; env:NAME keeps it out")


def _run(
    settings: Settings,
    name: str,
    program: Callable[[], Any],
    dry_run: bool,
    no_check: bool,
    report: Path | None,
    *,
    json: bool,
    at_once: int,
    per_second: float,
) -> int:
    """Exit code 1 if a key, team or client was not taken."""

    if report is not None and not report.parent.is_dir():
        return fail(f"{report}: there is no such directory")

    async def command(keys: KeyOperations) -> int:
        with (
            program() as of_other,
            shown_progress("taking over keys" if no_check else "checking keys", total=0) as tell,
        ):
            migration = Migration(
                keys,
                of_other,
                check=not no_check,
                dry_run=dry_run,
                actor=command_actor().name,
                on_progress=tell,
            )
            moved = migration.moved
            try:
                with said_if_cut(lambda: _so_far(moved)):
                    await migration.run(at_once=at_once, per_second=per_second)
            finally:
                if moved.changed:
                    changes = {what: [None, count] for what, count in _counts(moved).items()}
                    await record(keys.settings, keys.overview.ledger.store, f"migrate_{name}", "", changes)
        document = moved.as_json(keys.redactor.clean)
        if json:
            tables.print_json(document)
        else:
            _print(moved, keys.redactor.clean, report)
        if report is not None:
            try:
                _write(report, document)
            except OSError as error:
                return fail(f"{report}: {error.strerror or error}")
        return 0 if moved.is_complete else 1

    try:
        return run_with_keys(settings, command)
    except SourceError as error:
        return fail(str(error))


def _counts(moved: Moved) -> dict[str, int]:
    """`keys added`: 400."""
    return {
        f"{what} {word}": count
        for what, counts in (("keys", moved.keys), ("teams", moved.teams), ("clients", moved.clients))
        for word, count in sorted(counts.items())
    }


def _so_far(moved: Moved) -> str:
    """What is said of a migration that was cut short; "" if it has changed nothing."""
    if not moved.changed:
        return ""
    done = ", ".join(f"{what}: {count:,}" for what, count in _counts(moved).items())
    return f"at least this is done; the same command does the rest. {done[0].upper()}{done[1:]}"


def _write(report: Path, document: dict[str, Any]) -> None:
    with open(report, "wb", opener=partial(os.open, mode=0o600)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")


def _print(moved: Moved, clean: Callable[[str], str], report: Path | None) -> None:
    out = Console(highlight=False)
    line = partial(out.print, markup=False, soft_wrap=True)
    for what, counts in (("keys", moved.keys), ("teams", moved.teams), ("clients", moved.clients)):
        told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "none"
        line(f"{what}: {'would be: ' if moved.dry_run and counts else ''}{told}")
    for note in moved.notes:
        line(f"note: {clean(note)}")
    groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for one in moved.not_taken:
        groups.setdefault((one.what, clean(one.why)), []).append((one.origin, one.count))
    if groups:
        line("not taken:")
    in_order = sorted(groups.items(), key=lambda group: (group[0][0] == "setting", group[0]))
    for (what, why), those in in_order[:_SHOWN]:
        names = ", ".join(dict.fromkeys(clean(origin) for origin, _ in those[:_NAMED]))
        more = f" and {len(those) - _NAMED} more" if len(those) > _NAMED else ""
        count = sum(count for _, count in those)
        line(f"  {count} {what}{'s' if count > 1 else ''}: {why}: {names}{more}")
    if len(groups) > _SHOWN:
        where = f"all are in {report}" if report else "--report FILE has all"
        line(f"  ... and {len(groups) - _SHOWN} more reasons; {where}")
