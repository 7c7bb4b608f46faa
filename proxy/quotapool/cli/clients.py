"""`quotapool clients`: add, list, resume and revoke clients in the store."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from quotapool.cli import tables
from quotapool.cli.errors import fail
from quotapool.cli.store_access import run_with_store
from quotapool.ledger.clients import ClientStore, digest, new_key
from quotapool.settings import Address, Settings
from quotapool.settings.model import SHORTEST_CLIENT_KEY
from quotapool.store.store import Store


def add(settings: Settings, name: str, given: str | None) -> int:
    """Exit code 0, or 2 if the name is in use or the token too short."""
    key = given or new_key()
    if len(key) < SHORTEST_CLIENT_KEY:
        return fail(f"a client key needs at least {SHORTEST_CLIENT_KEY} characters")
    if any(key == upstream.secret.get_secret_value() for upstream in settings.keys):
        return fail("that is a key of the pool; clients must not have one")
    if any(client.id == name for client in settings.clients):
        return fail(f"a client {name!r} is in the configuration")

    async def command(store: Store) -> int:
        if not await ClientStore(store, settings.pool).add(name, digest(key)):
            return fail(f"a client {name!r} exists already; revoke it first")
        print(f"# client {name}: this is shown once, only its SHA-256 is kept")
        everywhere = settings.listen.host in {"0.0.0.0", "::"}
        here = Address("127.0.0.1", settings.listen.port) if everywhere else settings.listen
        print(f"export OPENAI_BASE_URL=http://{here}/v1")
        print(f"export OPENAI_API_KEY={key if given is None else '<the token you gave>'}")
        return 0

    return run_with_store(settings, command)


def show(settings: Settings, *, as_json: bool) -> int:
    async def command(store: Store) -> int:
        clients = ClientStore(store, settings.pool)
        stored, suspended = await clients.all(), await clients.suspended()
        rows: list[dict[str, str]] = [
            {"id": name, "from": "store", "added": f"{datetime.fromtimestamp(record.added, UTC):%Y-%m-%d %H:%M} UTC"}
            for name, record in sorted(stored.items())
        ]
        rows += [{"id": client.id, "from": "config", "added": ""} for client in settings.clients]
        for row in rows:
            row["suspended"] = suspended[row["id"]].reason if row["id"] in suspended else ""
        if as_json:
            print(msgspec.json.encode({"clients": rows}).decode())
            return 0
        table = tables.table("client", "from", "added", "suspended for")
        for row in rows:
            table.add_row(row["id"], row["from"], row["added"], row["suspended"])
        tables.console().print(table if rows else "no clients: anyone on this machine who reaches the port may call")
        return 0

    return run_with_store(settings, command)


def revoke(settings: Settings, name: str) -> int:
    async def command(store: Store) -> int:
        if not await ClientStore(store, settings.pool).revoke(name):
            return fail(f"no client {name!r} in the store")
        print(f"client {name} revoked")
        return 0

    return run_with_store(settings, command)


def resume(settings: Settings, name: str) -> int:
    """Serve a client again that was suspended for policy refusals. 2: it was not suspended."""

    async def command(store: Store) -> int:
        if not await ClientStore(store, settings.pool).resume(name):
            return fail(f"client {name!r} is not suspended")
        print(f"client {name} is served again")
        return 0

    return run_with_store(settings, command)
