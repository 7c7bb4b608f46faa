"""`quotapool clients`: add, list, resume and revoke clients in the store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quotapool.cli import tables
from quotapool.cli.access import run_with_store, with_store
from quotapool.cli.errors import fail
from quotapool.cli.options import JsonOption, with_settings
from quotapool.ledger.clients import ClientStore, digest, new_key
from quotapool.settings import Address, Settings
from quotapool.settings.model import SHORTEST_CLIENT_KEY
from quotapool.store.store import Store

app = typer.Typer()


@app.command("add")
@with_settings
def add(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    key: Annotated[
        str | None, typer.Option(help="Use this existing token instead of a new one; - reads it.", show_default=False)
    ] = None,
) -> int:
    """Create a client key and show it, once."""
    given = sys.stdin.readline().strip() if key == "-" else key
    token = given or new_key()
    if len(token) < SHORTEST_CLIENT_KEY:
        return fail(f"a client key needs at least {SHORTEST_CLIENT_KEY} characters")
    if any(token == upstream.secret.get_secret_value() for upstream in settings.keys):
        return fail("that is a key of the pool; clients must not have one")
    if any(client.id == name for client in settings.clients):
        return fail(f"a client {name!r} is in the configuration")

    async def command(store: Store) -> int:
        if not await ClientStore(store, settings.pool).add(name, digest(token)):
            return fail(f"a client {name!r} exists already; revoke it first")
        print(f"# client {name}: this is shown once, only its SHA-256 is kept")
        everywhere = settings.listen.host in {"0.0.0.0", "::"}
        here = Address("127.0.0.1", settings.listen.port) if everywhere else settings.listen
        print(f"export OPENAI_BASE_URL=http://{here}/v1")
        print(f"export OPENAI_API_KEY={token if given is None else '<the token you gave>'}")
        return 0

    return run_with_store(settings, command)


@app.command("list")
@with_store
async def show(settings: Settings, store: Store, *, json: JsonOption = False) -> int:
    """All clients that have a key."""
    clients = ClientStore(store, settings.pool)
    stored, suspended = await clients.all(), await clients.suspended()
    rows: list[dict[str, str]] = [
        {"id": name, "from": "store", "added": tables.moment(record.added)} for name, record in sorted(stored.items())
    ]
    rows += [{"id": client.id, "from": "config", "added": ""} for client in settings.clients]
    for row in rows:
        row["suspended"] = suspended[row["id"]].reason if row["id"] in suspended else ""
    if json:
        tables.print_json({"clients": rows})
        return 0
    table = tables.table("client", "from", "added", "suspended for")
    for row in rows:
        table.add_row(*row.values())
    tables.console().print(table if rows else "no clients: anyone on this machine who reaches the port may call")
    return 0


@app.command("resume")
@with_store
async def resume(settings: Settings, store: Store, name: Annotated[str, typer.Argument(help="The client.")]) -> int:
    """Serve a client again that was suspended for policy refusals (safety.suspend_after)."""
    if not await ClientStore(store, settings.pool).resume(name):
        return fail(f"client {name!r} is not suspended")
    print(f"client {name} is served again")
    return 0


@app.command("revoke")
@with_store
async def revoke(settings: Settings, store: Store, name: Annotated[str, typer.Argument(help="Whose key.")]) -> int:
    """Revoke a client's key; it stops working within a second."""
    if not await ClientStore(store, settings.pool).revoke(name):
        return fail(f"no client {name!r} in the store")
    print(f"client {name} revoked")
    return 0
