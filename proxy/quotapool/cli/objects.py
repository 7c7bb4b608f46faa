"""`quotapool objects`: which account holds which stored object, and which client owns it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from quotapool.cli import tables
from quotapool.cli.errors import fail
from quotapool.cli.store_access import run_with_store
from quotapool.domain.observer import Observer
from quotapool.objects.layout import account_mark, owner_of
from quotapool.objects.owners import ObjectOwners
from quotapool.openai.ids import ITEM, OTHER, Kind, kind_of
from quotapool.settings import Settings
from quotapool.store.store import Store


def _owners(store: Store, settings: Settings) -> ObjectOwners:
    return ObjectOwners(store, settings.pool, retention_s=settings.objects.retention, observer=Observer())


def _kinds(object_id: str) -> list[Kind]:
    known = kind_of(object_id)
    return [known] if known is not None else [OTHER, ITEM]


def show(settings: Settings, *, client: str | None, account: str | None, as_json: bool) -> int:
    """What is kept by name: files, uploads, batches, vector stores, fine-tunes … Responses are too many."""

    async def command(store: Store) -> int:
        rows = [
            row
            for row in await _owners(store, settings).all()
            if client in {None, row.client} and account in {None, row.account}
        ]
        if as_json:
            print(msgspec.json.encode({"objects": rows}).decode())
            return 0
        table = tables.table("id", "account", "client", "since")
        for row in rows:
            since = f"{datetime.fromtimestamp(row.created, UTC):%Y-%m-%d %H:%M} UTC"
            table.add_row(row.id, row.account, row.client or "-", since)
        tables.console().print(table if rows else "no stored objects are known")
        return 0

    return run_with_store(settings, command)


def find(settings: Settings, object_id: str, *, as_json: bool) -> int:
    """Exit code 1 if it is not known."""

    async def command(store: Store) -> int:
        refs = [(kind, object_id) for kind in _kinds(object_id)]
        found = next((owner for owner in await _owners(store, settings).find(refs, "") if owner is not None), None)
        if found is None:
            return fail(f"{object_id} is not known", 1)
        # Most records have digests of the names, so the names are looked up in the configuration.
        accounts = {account_mark(key.account): key.account for key in settings.keys}
        clients = {owner_of("", client.id).client: client.id for client in settings.clients}
        account = accounts.get(found.account, "an account that is not in the configuration")
        client = clients.get(found.client, "a client that is not in the configuration") if found.client else ""
        if as_json:
            print(msgspec.json.encode({"id": object_id, "account": account, "client": client}).decode())
        else:
            print(f"{object_id}: account {account}, client {client or '-'}")
        return 0

    return run_with_store(settings, command)


def forget(settings: Settings, object_id: str) -> int:
    """Exit code 1 if there was nothing to forget. The object itself stays where it is."""

    async def command(store: Store) -> int:
        owners = _owners(store, settings)
        forgotten = [await owners.forget((kind, object_id)) for kind in _kinds(object_id)]
        if not any(forgotten):
            return fail(f"{object_id} is not known", 1)
        print(f"{object_id} is forgotten")
        return 0

    return run_with_store(settings, command)
