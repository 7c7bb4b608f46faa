"""`quotapool keys users`: which clients used a key, of the last requests that are kept."""

from __future__ import annotations

from typing import Annotated

import typer

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.options import JsonOption
from quotapool.observe.request_store import RequestStore
from quotapool.reports.key_lines import users_of
from quotapool.settings import Settings
from quotapool.store.store import Store


def run(
    settings: Settings,
    key: Annotated[str, typer.Argument(help="The key's id.")],
    *,
    json: JsonOption = False,
) -> int:
    """Show which clients used a key, of the last requests that are kept."""

    async def command(store: Store) -> int:
        found = await users_of(key, RequestStore(store, settings.pool))
        if json:
            tables.print_json(found)
            return 0
        table = tables.table("client", "requests", "tokens", "cost")
        for one in found.users:
            table.add_row(one["client"], f"{one['requests']:,}", f"{one['tokens']:,}", f"${one['usd']:.6f}")
        since = f" since {found.since}" if found.since else ""
        nobody = f"no request that is kept{since} tried {key}"
        tables.console().print(table if found.users else nobody, markup=False)
        if found.users:
            print(f"of the requests that are kept, those{since}")
        return 0

    return run_with_store(settings, command)
