"""`quotapool clients`: the proxy's clients in the store: add, set, show, list, rotate, suspend, resume, revoke."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from inspect import Signature, signature
from typing import Annotated, Any, Final

import typer

from quotapool.cli import tables
from quotapool.cli.access import recorded, run_with_store
from quotapool.cli.clients_bulk import Choice, ClientsArgument, MatchOption, TeamOption, YesOption, work
from quotapool.cli.errors import fail, new_name, warn
from quotapool.cli.options import JsonOption, with_settings
from quotapool.cli.progress import shown_progress
from quotapool.cli.questions import agreed
from quotapool.cli.rule_options import cell, changed_words, with_client_rules
from quotapool.cli.rule_tables import LEVEL, level_of, rules_table
from quotapool.operators.clients import ClientConflict, ClientOperations, InvalidClient, UnknownClient
from quotapool.settings import Address, Settings
from quotapool.settings.values import parse_duration
from quotapool.store.store import Store

app = typer.Typer()

Id = Annotated[str, typer.Argument(help="The client.", metavar="NAME")]
# What a client may do; the same words as in the configuration.
Title = Annotated[str | None, typer.Option("--title", help="Who it is, for people; any script.", show_default=False)]
Models = Annotated[
    str | None, typer.Option(help='Names or patterns, as in "gpt-5*,o3"; "" is all.', show_default=False)
]
Weight = Annotated[float | None, typer.Option(help="Its share of a busy pool beside others'.", show_default=False)]
Priority = Annotated[
    str | None, typer.Option(help="Its place when budgets are short: high, normal or batch.", show_default=False)
]
MaxWait = Annotated[
    str | None, typer.Option(help='How long a request may wait: 30s; "" is the pool\'s.', show_default=False)
]
ExpiresOn = Annotated[
    str | None, typer.Option(help='Refused from this day on (UTC): 2026-12-31; "" is never.', show_default=False)
]
Labels = Annotated[str | None, typer.Option(help='As in "team=search,env=prod"; "" is none.', show_default=False)]
Notes = Annotated[str | None, typer.Option(help="Notes for people.", show_default=False)]
Key = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", help="Use this token instead of a new one; -: standard input.", show_default=False),
]

_COLUMNS: Final = ("id", "name", "source", "team", "models", "priority", "expires_on", "last_seen", "suspended")


def with_clients(run: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """A command of `run`, whose arguments are the configuration, the pool's clients and its options."""

    return _with_clients(run, "")


def changing_client(action: str) -> Callable[[Callable[..., Awaitable[int]]], Callable[..., None]]:
    """The same for a command that does something to the client `name`, which is recorded."""
    return partial(_with_clients, action=action)


def _with_clients(run: Callable[..., Awaitable[int]], action: str) -> Callable[..., None]:
    async def checked(settings: Settings, store: Store, **options: object) -> int:
        doing = partial(run, settings, ClientOperations(lambda: settings, store), **options)
        try:
            return await (recorded(settings, store, action, f"c/{options['name']}", doing) if action else doing())
        except UnknownClient as error:
            return fail(_unknown(error))
        except (InvalidClient, ClientConflict) as error:
            return fail(str(error))

    @with_settings
    @wraps(run)
    def command(settings: Settings, **options: object) -> int:
        return run_with_store(settings, lambda store: checked(settings, store, **options))

    return command


def _asked(
    title: str | None,
    models: str | None,
    weight: float | None,
    priority: str | None,
    max_wait: str | None,
    expires_on: str | None,
    labels: str | None,
    notes: str | None,
) -> dict[str, Any]:
    """The options that were given, as the configuration would have them."""
    given = {
        "name": title,
        "models": None if models is None else _parts(models),
        "weight": weight,
        "priority": priority,
        "max_wait": max_wait,
        "expires_on": expires_on,
        "labels": None if labels is None else dict(_pair(part) for part in _parts(labels)),
        "notes": notes,
    }
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return asked | {name: None for name in ("max_wait", "expires_on") if asked.get(name) == ""}


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def _given(key: str | None) -> str | None:
    return sys.stdin.readline().strip() if key == "-" else key


def _show_pair(settings: Settings, name: str, new: str | None) -> None:
    """What the client needs, ready for its environment."""
    print(f"# client {name}: this is shown once, only its SHA-256 is kept")
    everywhere = settings.listen.host in {"0.0.0.0", "::"}
    here = Address("127.0.0.1", settings.listen.port) if everywhere else settings.listen
    scheme = "http" if settings.tls is None else "https"
    print(f"export OPENAI_BASE_URL={scheme}://{here}/v1")
    print(f"export OPENAI_API_KEY={new or '<the token you gave>'}")


@app.command("add")
@changing_client("add_client")
@with_client_rules
async def add(
    settings: Settings,
    clients: ClientOperations,
    rules: dict[str, Any],
    name: Annotated[str, typer.Argument(help="Who it is for.", metavar="NAME", callback=new_name)],
    key: Key = None,
    title: Title = None,
    models: Models = None,
    weight: Weight = None,
    priority: Priority = None,
    max_wait: MaxWait = None,
    expires_on: ExpiresOn = None,
    labels: Labels = None,
    notes: Notes = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Create a client key and show it, once."""
    options = _asked(title, models, weight, priority, max_wait, expires_on, labels, notes) | rules
    given = _given(key)
    await clients.check_new(name, options)
    if given is not None:
        await clients.check_key(given)
    if await clients.is_first() and not _may_close(settings, yes=yes):
        return 1
    new = await clients.add(name, options, key=given)
    _show_pair(settings, name, new)
    return 0


def _may_close(settings: Settings, *, yes: bool) -> bool:
    """The first client key ends that anybody may call. A person is asked whether that is wanted; a program is told."""
    if not (settings.listen.is_loopback or settings.allow_anonymous):
        return True  # nobody was served
    warn("until now callers without a key were served; with the first client key they are refused")
    return yes or not sys.stdin.isatty() or agreed("Go on?")


@app.command("set")
@changing_client("set_client")
@with_client_rules
async def change(
    settings: Settings,
    clients: ClientOperations,
    rules: dict[str, Any],
    name: Id,
    title: Title = None,
    models: Models = None,
    weight: Weight = None,
    priority: Priority = None,
    max_wait: MaxWait = None,
    expires_on: ExpiresOn = None,
    labels: Labels = None,
    notes: Notes = None,
) -> int:
    """Change what a client may do, in all replicas within a second. Other options stay as they are."""
    del settings
    asked = _asked(title, models, weight, priority, max_wait, expires_on, labels, notes) | rules
    if not asked:
        return fail("nothing to change was given; --help shows the options")
    options = await clients.set(name, asked)
    print(f"client {name}: {changed_words(options)}")
    return 0


@app.command("show")
@with_clients
async def one(settings: Settings, clients: ClientOperations, name: Id, *, json: JsonOption = False) -> int:
    """Show all about one client: its options, and what is used and left of its limits and budgets."""
    del settings
    try:
        row = await clients.row(name)
    except UnknownClient:
        return fail(f"no client {name!r}; `quotapool clients list` shows them")
    if json:
        tables.print_json(row)
        return 0
    table = tables.table("", "")
    for title, value in _readable(row).items():
        if title not in {"limits", "budgets", "rules"}:
            table.add_row(title.replace("_", " "), cell(value))
    tables.console().print(table)
    if row["rules"]:
        tables.console().print(rules_table(row["rules"]))
    return 0


@app.command("list")
@with_clients
async def show(settings: Settings, clients: ClientOperations, *, json: JsonOption = False) -> int:
    """Show all clients, each with the limit or budget of which most is used."""
    del settings
    with shown_progress("reading clients"):
        rows = await clients.rows()
    if json:
        tables.print_json({"clients": rows})
        return 0
    columns = [column for column in _COLUMNS if column == "id" or any(_says(row, column) for row in rows)]
    table = tables.table(*(column.replace("_", " ") for column in columns), *LEVEL, right=("used",))
    for row in map(_readable, rows):
        table.add_row(*(cell(row[column]) for column in columns), *level_of(row["rules"]))
    tables.console().print(table if rows else "no clients: anyone on this machine who reaches the port may call")
    return 0


@app.command("rotate")
@changing_client("rotate_client")
async def rotate(
    settings: Settings,
    clients: ClientOperations,
    name: Id,
    key: Key = None,
    overlap: Annotated[str, typer.Option(help="How long the old key is also served: 1h, 7d, 0.")] = "24h",
) -> int:
    """Give a client a new key, and show it once. Its old one is served for a while."""
    try:
        overlap_s = parse_duration(overlap)
    except ValueError as error:
        return fail(f"--overlap {error}")
    new, until = await clients.rotate(name, overlap_s, key=_given(key))
    _show_pair(settings, name, new)
    print(
        f"# the old key is served until {tables.moment(until)}" if overlap_s else "# the old key is refused from now on"
    )
    return 0


def _for_many(action: str) -> Callable[[Callable[..., Awaitable[str]]], None]:
    """The command of this name, for one client or for many. `act` does it to one, whose name it is given."""

    def add_command(act: Callable[..., Awaitable[str]]) -> None:
        def given(
            settings: Settings,
            names: ClientsArgument = None,
            *,
            team: TeamOption = None,
            match: MatchOption = None,
            yes: YesOption = False,
            **options: object,
        ) -> int:
            choice = Choice(names or [], team, match)

            async def checked(store: Store) -> int:
                clients = ClientOperations(lambda: settings, store)
                doing = partial(act, clients, **options)
                try:
                    return await work(settings, store, clients, action, choice, doing, yes=yes)
                except UnknownClient as error:
                    return fail(_unknown(error))
                except ClientConflict as error:
                    return fail(str(error))

            return run_with_store(settings, checked)

        own = [one for one in signature(act, eval_str=True).parameters.values() if one.kind is one.KEYWORD_ONLY]
        shared = [one for one in signature(given, eval_str=True).parameters.values() if one.kind is not one.VAR_KEYWORD]
        given.__signature__ = Signature([*shared, *own])  # type: ignore[attr-defined]  # with_settings reads it
        given.__doc__ = act.__doc__
        app.command(action)(with_settings(given))

    return add_command


@_for_many("suspend")
async def _suspend(
    clients: ClientOperations,
    name: str,
    *,
    reason: Annotated[str, typer.Option(help="The reason, which the list shows.")] = "by the operator",
) -> str:
    """Refuse clients' requests until they are resumed; of the configuration's clients, too."""
    if not await clients.suspend(name, reason):
        raise ClientConflict(f"client {name!r} is suspended already")
    return "is suspended"


@_for_many("resume")
async def _resume(clients: ClientOperations, name: str) -> str:
    """Serve clients again that were suspended, by you or for policy refusals (safety.suspend_after)."""
    if not await clients.resume(name):
        raise ClientConflict(f"client {name!r} is not suspended")
    return "is served again"


@_for_many("revoke")
async def _revoke(clients: ClientOperations, name: str) -> str:
    """Revoke clients' keys; they stop working within a second."""
    await clients.revoke(name)
    return "revoked"


def _unknown(error: UnknownClient) -> str:
    return f"no client {str(error)!r} in the store; `quotapool clients list` shows them"


def _says(row: dict[str, Any], column: str) -> bool:
    """Whether a column is worth its width for this client: on a terminal there is little."""
    return cell(row[column]) not in {"", "store", "normal"}


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people: moments and durations as text."""
    moments = {name: tables.moment(row[name]) for name in ("added", "old_key_until") if row[name] is not None}
    wait_s = row["max_wait"]
    return {**row, **moments, "max_wait": None if wait_s is None else f"{wait_s:g} s"}
