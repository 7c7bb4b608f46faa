"""`quotapool keys`: show, add, change and probe keys. What an operator sets takes precedence over what is observed."""

from __future__ import annotations

import sys
import time
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from quotapool.cli import keys_import, keys_users, tables, topup
from quotapool.cli.access import command_actor, record, recorded, run_with_keys, with_keys
from quotapool.cli.errors import fail, new_name, warn
from quotapool.cli.keys_bulk import (
    STATES,
    AccountOption,
    Choice,
    KeysArgument,
    MatchOption,
    StateOption,
    YesOption,
    one_recorded,
    probing,
    work,
)
from quotapool.cli.options import JsonOption, NoCheckOption, ReplaceOption, with_settings
from quotapool.cli.progress import shown_progress
from quotapool.cli.typed_secrets import ask_for_secret
from quotapool.domain.counted import counted
from quotapool.domain.states import State
from quotapool.keys import master_keys
from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.operators.keys import COOLING, KeyEntry, KeyOperations, next_step
from quotapool.settings import Settings
from quotapool.shapes.work import KeyVerb

app = typer.Typer()


def state_word(row: dict[str, Any]) -> str:
    """A key's state as people see it: an active one is cooling while every model group of its account has to wait."""
    return COOLING if row["state"] == State.ACTIVE and row.get("cooling_s") else str(row["state"])


@app.command("list")
@with_keys
async def show(
    keys: KeyOperations,
    *,
    account: AccountOption = None,
    state: StateOption = None,
    match: MatchOption = None,
    json: JsonOption = False,
) -> int:
    """Show each key's state and reason, without asking OpenAI."""
    if state not in {None, COOLING, *STATES}:
        return fail(f"--state is {', '.join(STATES)} or {COOLING}")
    with shown_progress("reading keys"):
        everything = await keys.rows()
    rows = [
        row
        for row in everything
        if account in {None, row["account"]}
        and state in {None, row["state"], state_word(row)}
        and (match is None or fnmatchcase(row["id"], match))
    ]
    if json:
        tables.print_json({"keys": rows})
        return 0
    now = time.time()
    shared = any(row["account"] != row["id"] for row in rows)
    table = tables.table("key", *(["account"] if shared else []), "state", "reason", "for", "next try", "from")
    for row in rows:
        table.add_row(
            row["id"],
            *([row["account"]] if shared else []),
            state_word(row),
            row.get("reason") or ("used by others" if row.get("outside_use") else ""),
            tables.span(now - row["since"]) if row.get("since") else "",
            f"in {tables.span(row['next_try'] - now)}" if row.get("next_try") else "",
            "config" if row["source"] == "configuration" else row["source"],
        )
    nothing = "the pool has no keys: `quotapool keys add`"
    if any(one is not None for one in (account, state, match)):
        nothing = "no key is like that"
    tables.console().print(table if rows else nothing)
    return 0


def _for_many(action: KeyVerb, about: str) -> None:
    """The command of this name, for one key or for many."""

    async def run(
        keys: KeyOperations,
        names: KeysArgument = None,
        *,
        account: AccountOption = None,
        state: StateOption = None,
        match: MatchOption = None,
        yes: YesOption = False,
        json: JsonOption = False,
    ) -> int:
        return await work(keys, action, Choice(names or [], account, state, match), yes=yes, as_json=json)

    app.command(action, help=about)(with_keys(run))


_for_many("enable", "Make removed, quarantined, disabled or draining keys active again.")
_for_many("disable", "Send keys no requests until they are enabled.")
_for_many("drain", "Send keys no new requests, as disable does; it is shown as another intention.")
_for_many("forget", "Delete keys that were added at run time, with their secrets.")


@app.command("remove")
@with_keys
async def remove(
    keys: KeyOperations,
    names: KeysArgument = None,
    *,
    account: AccountOption = None,
    state: StateOption = None,
    match: MatchOption = None,
    yes: YesOption = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also delete their secrets, if they were added at run time.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Take keys out for good: until they are enabled, or their secrets change."""
    action: KeyVerb = "forget" if forget else "remove"
    return await work(keys, action, Choice(names or [], account, state, match), yes=yes, as_json=json)


@app.command("probe")
@with_keys
async def probe(
    keys: KeyOperations,
    names: KeysArgument = None,
    *,
    account: AccountOption = None,
    state: StateOption = None,
    match: MatchOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> int:
    """Ask OpenAI about keys now. Exit code 1 if one is not valid."""
    choice = Choice(names or [], account, state, match)
    if not choice.is_one:
        return await work(keys, "probe", choice, yes=yes, as_json=json)
    (key,) = choice.names
    return await one_recorded(keys, "probe", key, partial(_probe, keys, key, as_json=json))


async def _probe(keys: KeyOperations, key: str, *, as_json: bool) -> int:
    async with probing(keys) as probe_now:
        check = await keys.probe(key, probe_now, command_actor().name)
    row = await keys.row(key)
    next_ = next_step(row, check)
    if as_json:
        answer = {"id": key, "valid": check.ok, "answer": check.answer, "detail": check.detail}
        tables.print_json({**answer, "state": row["state"], "next": next_})
    else:
        detail = f" ({check.detail})" if check.detail else ""
        print(f"key {key}: upstream answers {check.answer}{detail}; its state here is {row['state']}")
        if next_:
            print(next_)
    return 0 if check.ok else 1


def _refuse_secret(secret: list[str] | None) -> None:
    if secret:
        warn(
            "a secret is not taken as an argument: other users see it in the list of processes, and the "
            "shell keeps it. Pass it on standard input. If that was a real one, it should be replaced"
        )
        raise typer.Exit(2)


@app.command("add")
@with_settings
def add(
    settings: Settings,
    secret: Annotated[list[str] | None, typer.Argument(hidden=True, callback=_refuse_secret)] = None,  # noqa: ARG001 - refused before
    *,
    name: Annotated[
        str | None,
        typer.Option("--id", help="The key's name.", show_default="key- and 8 hex digits", callback=new_name),
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="The account whose limits it shares.", show_default="its own", callback=new_name)
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(help="The tier of its account: one of tiers: in the configuration.", show_default=False),
    ] = None,
    no_check: NoCheckOption = False,
    replace: ReplaceOption = False,
) -> int:
    """Add a key while the proxy runs. Its secret is read from standard input, or asked for at a terminal."""
    if tier is not None and tier not in settings.tiers:
        return fail(f"--tier: there is no {tier} under tiers: in the configuration")
    given = ask_for_secret("OpenAI key (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        return fail("no secret on standard input")
    entry = KeyEntry(given.strip(), name, account, {"tier": tier} if tier else {})

    async def command(keys: KeyOperations) -> int:
        chosen = keys.with_own_id(keys.validated(entry), entry, lambda _: False).id

        async def run() -> int:
            added, result = await keys.add(entry, check=not no_check, replace=replace)
            print(f"key {added}: {result}")
            return 0

        store = keys.overview.ledger.store
        return await recorded(keys.settings, store, "add_key", f"k/{chosen}", run, keys=keys)

    return run_with_keys(settings, command)


app.command("import")(with_settings(keys_import.run))


@app.command("rotate-master-key")
@with_keys
async def rotate_master_key(
    keys: KeyOperations,
    new_file: Annotated[
        Path, typer.Option("--new-file", help="The file of the new master key; made if it is not there.")
    ],
) -> int:
    """Encrypt the keys that were added at run time with another master key, all or none."""
    settings = keys.sources.configured
    # Before anything is written: with a wrong master key nothing changes, not even a file.
    keys.sources.vault.current_master(keys.sources.contents, master_keys.master_keys(settings, keys.redactor.add))
    text = _new_text(new_file)
    try:
        new = MasterKey(text)
    except ValueError as error:
        return fail(f"{new_file}: {error}")
    keys.redactor.add(text)
    own = master_keys.own_file(settings)
    is_own = settings.redis is None and settings.master_key is None and settings.master_key_file is None
    if is_own and own.exists():  # if this is interrupted, both are accepted
        master_keys.write(own, *dict.fromkeys([*master_keys.lines_of(own), text]))
    masters = master_keys.master_keys(settings, keys.redactor.add)
    count = await keys.sources.vault.rotate(masters, new)
    if is_own:
        master_keys.write(own, text)
        next_ = f"{own} has it"
    else:
        next_ = f"now give every replica the key in {new_file} instead of the old one"
    print(f"{counted(count, 'key')} sealed with the new master key; {next_}")
    changes = {"master_key": ["…", "new key"], "keys": [None, count]}
    await record(settings, keys.overview.ledger.store, "rotate_master_key", "", changes)
    return 0


app.command("topup")(with_settings(topup.run))
app.command("users")(with_settings(keys_users.run))


def _new_text(new_file: Path) -> str:
    if not new_file.exists():
        master_keys.write(new_file, new_master_key())
        print(f"a new master key was created in {new_file}")
    return master_keys.read_file(new_file)
