"""`quotapool keys`: show, add, change and probe keys. What an operator sets takes precedence over what is observed."""

from __future__ import annotations

import sys
import time
from getpass import getpass
from pathlib import Path
from typing import Any

import msgspec

from quotapool.app.probing import Probing
from quotapool.cli import tables
from quotapool.cli.errors import fail
from quotapool.cli.key_access import run_with_keys
from quotapool.domain.states import State
from quotapool.keys import master_keys
from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.operators.keys import KeyEntry, KeyOperations, next_step
from quotapool.settings import Settings


def state_word(row: dict[str, Any]) -> str:
    """A key's state as people see it: an active one is cooling while every model group of its account has to wait."""
    return "cooling" if row["state"] == State.ACTIVE and row.get("cooling_s") else str(row["state"])


def show(settings: Settings, *, as_json: bool) -> int:
    """Each key's state without asking upstream; exit code 0."""

    async def command(keys: KeyOperations) -> int:
        rows = await keys.rows()
        if as_json:
            print(msgspec.json.encode({"keys": rows}).decode())
            return 0
        now = time.time()
        shared = any(row["account"] != row["id"] for row in rows)
        table = tables.table("key", *(["account"] if shared else []), "state", "reason", "for", "next try", "from")
        for row in rows:
            table.add_row(
                row["id"],
                *([row["account"]] if shared else []),
                state_word(row),
                row.get("reason", ""),
                tables.span(now - row["since"]) if row.get("since") else "",
                f"in {tables.span(row['next_try'] - now)}" if row.get("next_try") else "",
                "config" if row["source"] == "configuration" else row["source"],
            )
        tables.console().print(table if rows else "the pool has no keys: `quotapool keys add`")
        return 0

    return run_with_keys(settings, command)


def act(settings: Settings, action: str, name: str) -> int:
    """Carry out one of KEY_ACTIONS for a key. 2: no such key."""

    async def command(keys: KeyOperations) -> int:
        print(f"key {name} is {await keys.act(action, name)}")
        return 0

    return run_with_keys(settings, command)


def forget(settings: Settings, name: str) -> int:
    """Delete a stored key and its secret. 2: no such key, or a configured one."""

    async def command(keys: KeyOperations) -> int:
        await keys.forget(name)
        print(f"key {name} and its secret are deleted")
        return 0

    return run_with_keys(settings, command)


def add(
    settings: Settings, name: str | None, account: str | None, tier: str | None, *, check: bool, replace: bool
) -> int:
    """Read a secret from standard input, or ask for it at a terminal; its id is shown, the secret never."""
    secret = getpass("OpenAI key (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    if not secret.strip():
        return fail("no secret on standard input")
    entry = KeyEntry(secret.strip(), name, account, {"tier": tier} if tier else {})

    async def command(keys: KeyOperations) -> int:
        added, result = await keys.add(entry, check=check, replace=replace)
        print(f"key {added}: {result}")
        return 0

    return run_with_keys(settings, command)


def probe(settings: Settings, name: str, *, as_json: bool) -> int:
    """Ask upstream about one key now. 0: valid, 1: not."""

    async def command(keys: KeyOperations) -> int:
        probing = Probing(keys.settings, keys.overview.ledger, keys.redactor)
        try:
            check = await keys.probe(name, probing.prober.probe_now)
        finally:
            await probing.close()
        row = await keys.row(name)
        next_ = next_step(row, check)
        if as_json:
            answer = {"id": name, "valid": check.ok, "answer": check.answer, "detail": check.detail}
            print(msgspec.json.encode({**answer, "state": row["state"], "next": next_}).decode())
        else:
            detail = f" ({check.detail})" if check.detail else ""
            print(f"key {name}: upstream answers {check.answer}{detail}; its state here is {row['state']}")
            if next_:
                print(next_)
        return 0 if check.ok else 1

    return run_with_keys(settings, command)


def rotate_master_key(settings: Settings, new_file: Path) -> int:
    """Seal the vault again, all keys or none. `new_file` has the new master key, or will have it."""

    async def command(keys: KeyOperations) -> int:
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
        print(f"{count} keys sealed with the new master key; {next_}")
        return 0

    return run_with_keys(settings, command)


def _new_text(new_file: Path) -> str:
    if not new_file.exists():
        master_keys.write(new_file, new_master_key())
        print(f"a new master key was created in {new_file}")
    return master_keys.read_file(new_file)
