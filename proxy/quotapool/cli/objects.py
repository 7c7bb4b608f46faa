"""`quotapool objects`: which account holds which stored object, and which client owns it."""

from __future__ import annotations

from typing import Annotated

import typer

from quotapool.cli import tables
from quotapool.cli.access import with_store
from quotapool.cli.errors import fail
from quotapool.cli.options import JsonOption
from quotapool.domain.observer import Observer
from quotapool.objects.layout import account_mark, owner_of
from quotapool.objects.owners import ObjectOwners
from quotapool.openai.ids import ITEM, OTHER, Kind, kind_of
from quotapool.settings import Settings
from quotapool.store.store import Store

app = typer.Typer()
ObjectArgument = Annotated[str, typer.Argument(help="The object's id: file-…, batch_…, resp_… and so on.")]


def _owners(store: Store, settings: Settings) -> ObjectOwners:
    return ObjectOwners(store, settings.pool, retention_s=settings.objects.retention, observer=Observer())


def _kinds(object_id: str) -> list[Kind]:
    known = kind_of(object_id)
    return [known] if known is not None else [OTHER, ITEM]


@app.command("list")
@with_store
async def show(
    settings: Settings,
    store: Store,
    *,
    client: Annotated[str | None, typer.Option(help="Only this client's.", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="Only this account's.", show_default=False)] = None,
    json: JsonOption = False,
) -> int:
    """Show files, batches, vector stores and the like, with account and client.

    Not responses: they are too many.
    """
    rows = [
        row
        for row in await _owners(store, settings).all()
        if client in {None, row.client} and account in {None, row.account}
    ]
    if json:
        tables.print_json({"objects": rows})
        return 0
    table = tables.table("id", "account", "client", "since")
    for row in rows:
        table.add_row(row.id, row.account, row.client or "-", tables.moment(row.created))
    tables.console().print(table if rows else "no stored objects are known")
    return 0


@app.command("find")
@with_store
async def find(settings: Settings, store: Store, object_id: ObjectArgument, *, json: JsonOption = False) -> int:
    """Show which account holds an object, responses too."""
    refs = [(kind, object_id) for kind in _kinds(object_id)]
    found = next((owner for owner in await _owners(store, settings).find(refs, "") if owner is not None), None)
    if found is None:
        return fail(f"{object_id} is not known", 1)
    # Most records have digests of the names, so the names are looked up in the configuration.
    accounts = {account_mark(key.account): key.account for key in settings.keys}
    clients = {owner_of("", client.id).client: client.id for client in settings.clients}
    account = accounts.get(found.account, "an account that is not in the configuration")
    client = clients.get(found.client, "a client that is not in the configuration") if found.client else ""
    if json:
        tables.print_json({"id": object_id, "account": account, "client": client})
    else:
        print(f"{object_id}: account {account}, client {client or '-'}")
    return 0


@app.command("forget")
@with_store
async def forget(settings: Settings, store: Store, object_id: ObjectArgument) -> int:
    """Forget who owns an object, within a minute; the object itself stays at OpenAI."""
    owners = _owners(store, settings)
    forgotten = [await owners.forget((kind, object_id)) for kind in _kinds(object_id)]
    if not any(forgotten):
        return fail(f"{object_id} is not known", 1)
    print(f"{object_id} is forgotten")
    return 0
