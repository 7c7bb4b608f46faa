"""`quotapool keys`: what an operator says about a key outranks what was observed, until an operator says otherwise."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from proxy.app.overview import Overview, Silent
from proxy.cli.attach import run_with_store
from proxy.domain.states import OPERATOR, Record, State
from proxy.ledger.connection import Store
from proxy.ledger.ledger import Ledger
from proxy.settings import Settings

SAYINGS: Final = {
    "enable": None,  # active again, whatever was observed or said before
    "disable": State.DISABLED,
    "drain": State.DRAINING,
    "remove": State.REMOVED,
}


def show(settings: Settings, *, as_json: bool) -> int:
    """Each key's state without asking upstream; exit code 0."""

    async def command(store: Store) -> int:
        rows = await _overview(settings, store).rows()
        if as_json:
            print(msgspec.json.encode({"keys": rows}).decode())
            return 0
        table = Table("key", "account", "state", "reason", "since", "next try")
        for row in rows:
            table.add_row(
                row["id"],
                row["account"],
                row["state"],
                row.get("reason", ""),
                _when(row.get("since")),
                _when(row.get("next_try")),
            )
        Console().print(table)
        return 0

    return run_with_store(settings, command)


def say(settings: Settings, saying: str, name: str) -> int:
    """Carry out one of SAYINGS for a key. `enable` also lifts what was observed of its account. 2: no such key."""

    async def command(store: Store) -> int:
        overview = _overview(settings, store)
        pool = overview.roster.pool
        key = pool.keys.get(name)
        if key is None:
            sys.stderr.write(f"quotapool: no key {name!r} in the configuration; `quotapool keys list` shows them\n")
            return 2
        ledger, state = overview.ledger, SAYINGS[saying]
        if state is None:
            account = pool.accounts[key.account]
            await ledger.change_state(f"a/{account.id}", None, by=OPERATOR, fingerprint=account.fingerprint)
            await ledger.change_state(f"k/{key.id}", None, by=OPERATOR, fingerprint=key.fingerprint)
        else:
            record = Record(state, "operator", 0.0, by=OPERATOR, fingerprint=key.fingerprint)
            await ledger.change_state(f"k/{key.id}", record, fingerprint=key.fingerprint)
        await overview.roster.refresh()
        print(f"key {name} is {pool.state_of(key)}")
        return 0

    return run_with_store(settings, command)


def _overview(settings: Settings, store: Store) -> Overview:
    return Overview(settings, Ledger(store, settings.pool, patience_s=3.0, observer=Silent()))


def _when(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else ""
