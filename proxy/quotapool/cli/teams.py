"""`quotapool teams`: limits and budgets that clients share: add, set, show, list, remove."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Annotated, Any

import typer

from quotapool.cli import tables
from quotapool.cli.access import recorded, run_with_store
from quotapool.cli.errors import fail, new_name
from quotapool.cli.options import JsonOption, with_settings
from quotapool.cli.rule_options import cell, changed_words, with_team_rules
from quotapool.cli.rule_tables import LEVEL, level_of, rules_table
from quotapool.operators.teams import InvalidTeam, TeamConflict, TeamOperations, UnknownTeam
from quotapool.settings import Settings
from quotapool.store.store import Store

app = typer.Typer()

Id = Annotated[str, typer.Argument(help="The team.", metavar="NAME")]
NewId = Annotated[str, typer.Argument(help="The team.", metavar="NAME", callback=new_name)]
Title = Annotated[str | None, typer.Option("--title", help="Who it is, for people; any script.", show_default=False)]
Notes = Annotated[str | None, typer.Option(help="Notes for people.", show_default=False)]


def with_teams(run: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """A command of `run`, whose arguments are the pool's teams and its options."""

    return _with_teams(run, "")


def changing_team(action: str) -> Callable[[Callable[..., Awaitable[int]]], Callable[..., None]]:
    """The same for a command that does something to the team `name`, which is recorded."""
    return partial(_with_teams, action=action)


def _with_teams(run: Callable[..., Awaitable[int]], action: str) -> Callable[..., None]:
    async def checked(settings: Settings, store: Store, **options: object) -> int:
        doing = partial(run, TeamOperations(lambda: settings, store), **options)
        try:
            return await (recorded(settings, store, action, f"t/{options['name']}", doing) if action else doing())
        except UnknownTeam as error:
            return fail(f"no team {str(error)!r}; `quotapool teams list` shows them")
        except (InvalidTeam, TeamConflict) as error:
            return fail(str(error))

    @with_settings
    @wraps(run)
    def command(settings: Settings, **options: object) -> int:
        return run_with_store(settings, lambda store: checked(settings, store, **options))

    return command


def _asked(title: str | None, notes: str | None, rules: dict[str, Any]) -> dict[str, Any]:
    given = {"name": title, "notes": notes}
    return {name: value for name, value in given.items() if value is not None} | rules


@app.command("add")
@changing_team("add_team")
@with_team_rules
async def add(
    teams: TeamOperations, rules: dict[str, Any], name: NewId, title: Title = None, notes: Notes = None
) -> int:
    """Make a team. Its clients are those that are made or changed with --team NAME."""
    options = await teams.add(name, _asked(title, notes, rules))
    print(f"team {name} added: {changed_words(options)}")
    return 0


@app.command("set")
@changing_team("set_team")
@with_team_rules
async def change(
    teams: TeamOperations, rules: dict[str, Any], name: Id, title: Title = None, notes: Notes = None
) -> int:
    """Change what a team may use, in all replicas within a second. Other options stay as they are."""
    asked = _asked(title, notes, rules)
    if not asked:
        return fail("nothing to change was given; --help shows the options")
    print(f"team {name}: {changed_words(await teams.set(name, asked))}")
    return 0


@app.command("show")
@with_teams
async def one(teams: TeamOperations, name: Id, *, json: JsonOption = False) -> int:
    """Show all about one team, and what is used and left of its limits and budgets."""
    row = await teams.row(name)
    if json:
        tables.print_json(row)
        return 0
    table = tables.table("", "")
    for title, value in {**row, "added": tables.moment(row["added"])}.items():
        if title not in {"limits", "budgets", "rules"}:
            table.add_row(title.replace("_", " "), cell(value))
    tables.console().print(table)
    if row["rules"]:
        tables.console().print(rules_table(row["rules"]))
    return 0


@app.command("list")
@with_teams
async def show(teams: TeamOperations, *, json: JsonOption = False) -> int:
    """Show all teams, each with the limit or budget of which most is used."""
    rows = await teams.rows()
    if json:
        tables.print_json({"teams": rows})
        return 0
    columns = ("id", "name", "source", "clients")
    table = tables.table(*columns, *LEVEL, right=("used",))
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns), *level_of(row["rules"]))
    tables.console().print(table if rows else "no teams")
    return 0


@app.command("remove")
@changing_team("remove_team")
async def remove(teams: TeamOperations, name: Id) -> int:
    """Remove a team that has no clients, and forget what it used."""
    await teams.remove(name)
    print(f"team {name} removed")
    return 0
